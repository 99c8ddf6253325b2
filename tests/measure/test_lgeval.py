import pytest

from mmlib.formula.latex import canonical
from mmlib.measure.lgeval import export


def test_layout_of_the_files(tmp_path):
    export(tmp_path, ["em_1"], [canonical(r"\frac{1}{2}")], [r"$ \frac12 $"])
    assert (tmp_path / "predictions" / "em_1.txt").read_bytes() == b"%em_1\n$\\frac { 1 } { 2 }$\n"
    assert (tmp_path / "truth" / "em_1.txt").read_bytes() == b"%em_1\n$\\frac12$\n"


def test_tokens_and_gaps_are_kept(tmp_path):
    tokens = [None, canonical(r"\{a\}")]
    export(tmp_path / "new" / "folder", ["a", "c.x"], tokens, [canonical("y"), canonical(r"\{b\}")])
    read = [
        (tmp_path / "new" / "folder" / folder / name).read_text().splitlines()[1].strip("$").split()
        for folder in ("predictions", "truth")
        for name in ("a.txt", "c.x.txt")
    ]
    assert read == [[], tokens[1], ["y"], [r"\{", "b", r"\}"]]


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
