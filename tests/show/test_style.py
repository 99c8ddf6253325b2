import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from mmlib.formula.ink import Ink, Symbol
from mmlib.show import style as plots
from mmlib.show.figures import curve
from mmlib.show.ink import OVER_MEAN, draw_ink, heat_over_ink
from mmlib.study.tables import markdown_table


@pytest.fixture
def ax():
    with plots.style():
        fig, ax = plt.subplots()
        yield ax
        plt.close(fig)


@pytest.fixture
def ink():
    strokes = [[(0, 0), (10, 10)], [(0, 10), (10, 0)], [(20, 9)]]
    return Ink.from_strokes([np.array(s) for s in strokes], symbols=(Symbol("x", (0, 1)),))


def test_every_arm_looks_the_same_everywhere_and_unlike_the_others():
    assert len({tuple(look) for look in plots.ARMS.values()}) == len(plots.ARMS)
    chosen = plots.looks(["supervised", "new b", "new a", *(f"arm {i}" for i in range(40))])
    assert chosen["supervised"] == plots.ARMS["supervised"]
    assert len({look[:2] for look in chosen.values()}) == len(chosen)
    assert plots.looks(["new a", "new b"])["new a"] == plots.looks(["new b", "new a"])["new a"]


def test_saved_files_are_the_same_bytes(tmp_path, monkeypatch):
    def draw(folder):
        monkeypatch.setenv("MMLIB_FIGURES", str(folder))
        with plots.style():
            fig, ax = plt.subplots(figsize=(2, 1))
            ax.plot([0, 1], [1, 0])
            ax.fill_between([0, 1], [0, 1])
            plots.save(fig, "figure")
            plt.close(fig)
        return sorted(folder.iterdir())

    first, second = draw(tmp_path / "a"), draw(tmp_path / "b")
    assert [p.name for p in first] == ["figure.png", "figure.svg"]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    assert plt.imread(first[0]).shape[:2] == (200, 400)


@pytest.mark.parametrize(("color", "distinct"), [("order", 3), ("symbol", 2), ("k", 1)])
def test_ink_is_drawn_upright(ax, ink, color, distinct):
    draw_ink(ax, ink, color)
    lines, dots = ax.collections
    assert len(lines.get_segments()) == 3
    assert len(np.unique(lines.get_colors(), axis=0)) == distinct
    assert dots.get_offsets().tolist() == [[20, 9]]
    bottom, top = ax.get_ylim()
    assert bottom > 10 > 0 > top


def test_heat_lies_where_it_is_said_to(ax, ink):
    image = heat_over_ink(ax, ink, np.eye(2), extent=(0, 16, 16, 0))
    assert tuple(image.get_extent()) == (0, 16, 16, 0)
    assert ax.get_xlim()[1] > 20
    assert image.get_clim()[0] == 0
    heat = np.array([[1, 9, 1, 9], [1, 9, 5, 2]])
    relative = heat_over_ink(ax, ink, heat, relative=True)
    assert relative.get_array().tolist() == (heat / 2).tolist(), "over the mean where ink is"
    assert relative.get_clim() == (0, OVER_MEAN)


def test_curves_are_means_over_seeds(ax):
    frame = pd.DataFrame(
        {
            "arm": ["supervised"] * 4 + ["simclr"] * 2,
            "seed": [0, 1, 0, 1, 0, 0],
            "pictures": [2, 2, 1, 1, 1, 2],
            "TER": [0.2, 0.4, 0.6, 0.8, 0.9, 0.8],
        }
    )
    curve(ax, frame, "pictures", "TER")
    supervised, simclr = ax.get_lines()
    np.testing.assert_allclose(supervised.get_xydata(), [[1, 0.7], [2, 0.3]])
    assert supervised.get_color() == plots.ARMS["supervised"].color
    assert simclr.get_label() == "simclr, 1 seed"
    assert len(ax.collections) == 1  # a band for two seeds, none for one


def test_markdown_table():
    frame = pd.DataFrame({"arm": ["a|b", None], "n": [986, 2], "TER": [0.12345, np.nan]})
    assert markdown_table(frame) == "\n".join(
        ["| arm | n | TER |", "| --- | ---: | ---: |", r"| a\|b | 986 | 0.123 |", "|  | 2 |  |"]
    )
