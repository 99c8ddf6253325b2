import pytest

from mmlib.formula.latex import canonical
from mmlib.measure.lgeval import export, read_export


def test_layout_of_the_files(tmp_path):
    export(tmp_path, ["em_1"], [canonical(r"\frac{1}{2}")], [r"$ \frac12 $"])
    assert (tmp_path / "predictions" / "em_1.txt").read_bytes() == b"%em_1\n$\\frac { 1 } { 2 }$\n"
    assert (tmp_path / "truth" / "em_1.txt").read_bytes() == b"%em_1\n$\\frac12$\n"


def test_round_trip_keeps_tokens_and_gaps(tmp_path):
    ids = ["b", "a", "c.x"]
    tokens = [canonical("x^2"), None, canonical(r"\{a\}")]
    export(tmp_path / "new" / "folder", ids, tokens, [canonical("x^2"), canonical("y"), canonical(r"\{b\}")])
    read_ids, predictions, truth = read_export(tmp_path / "new" / "folder")
    assert read_ids == ["a", "b", "c.x"]
    assert [p.split() for p in predictions] == [[], tokens[0], tokens[2]]
    assert [t.split() for t in truth] == [["y"], canonical("x^2"), [r"\{", "b", r"\}"]]


@pytest.mark.parametrize("name", ["", "../a", "a/b", ".hidden", "a\nb"])
def test_ids_that_are_no_file_names_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="plain file name"):
        export(tmp_path, [name], [["x"]], [["x"]])
    assert not list(tmp_path.iterdir())


def test_wrong_input_is_refused(tmp_path):
    with pytest.raises(ValueError, match="repeated"):
        export(tmp_path, ["a", "a"], [["x"]] * 2, [["x"]] * 2)
    with pytest.raises(ValueError, match="2 ids, 1 predictions"):
        export(tmp_path, ["a", "b"], [["x"]], [["x"]] * 2)
    with pytest.raises(ValueError, match="dollar"):
        export(tmp_path, ["a"], ["x $ y"], [["x"]])


def test_files_of_another_layout_are_refused(tmp_path):
    export(tmp_path, ["a", "b"], [["x"], ["y"]], [["x"], ["y"]])
    (tmp_path / "truth" / "a.txt").write_text("$x$\n")
    with pytest.raises(ValueError, match=r"a\.txt"):
        read_export(tmp_path)
    (tmp_path / "truth" / "a.txt").unlink()
    with pytest.raises(ValueError, match="without a partner"):
        read_export(tmp_path)
