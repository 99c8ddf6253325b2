"""Pages that open offline: nothing on them comes from elsewhere, and nothing of the notebook is
missing.
"""

import re
from html.parser import HTMLParser

import nbformat
import pytest

from mmlib.store.files import project_root
from scripts import site
from scripts.reproduce import find_notebooks


class Loads(HTMLParser):
    """What a page would fetch, and its pictures."""

    def __init__(self, page):
        super().__init__()
        self.fetched, self.pictures, self.links, self.scripts = [], [], [], 0
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.scripts += tag == "script"
        if tag == "a":
            self.links.append(attributes.get("href", ""))
        elif tag == "img":
            self.pictures.append(attributes["src"])
        elif tag in ("script", "link", "iframe", "source", "video", "object", "embed"):
            self.fetched += [
                value for name, value in attributes.items() if name in ("src", "href", "data")
            ]


@pytest.fixture(scope="module")
def notebook():
    return next(path for path in find_notebooks() if path.stem.startswith("04"))


@pytest.fixture(scope="module")
def page(notebook):
    return site.Pages().page(notebook)


def test_a_page_loads_nothing_and_shows_every_picture(notebook, page):
    loads = Loads(page)
    assert loads.scripts == 0
    assert loads.fetched == []
    assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", page), "a style from elsewhere"
    cells = nbformat.read(notebook, as_version=4).cells
    committed = [
        output.data["image/png"].replace("\n", "")
        for cell in cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    assert committed
    shown = [picture.partition("base64,")[2].replace("\n", "") for picture in loads.pictures]
    assert [picture for picture in shown if picture] == committed


def test_formulas_are_set_and_none_is_left_as_source(page):
    assert page.count('class="math display"') >= 4
    prose = re.sub(
        r"<svg.*?</svg>|<pre.*?</pre>|<code.*?</code>|<style.*?</style>", "", page, flags=re.DOTALL
    )
    assert not re.search(r"\$[^$\n]*\\[a-z]+", prose)


@pytest.mark.parametrize(
    "tex",
    [
        r"\tfrac12",
        r"\frac1n",
        r"\big[x\big]",
        r"\lVert x \rVert",
        r"\bigl(",
        r"\operatorname{clip}",
    ],
)
def test_formulas(tex):
    if tex == r"\bigl(":
        with pytest.raises(ValueError, match="bigl"):
            site.formula(tex)
    else:
        assert 'aria-label="' in site.formula(tex)


def test_a_fraction_on_its_own_line_is_larger_and_an_inline_formula_sits_on_the_line():
    def measure(svg, what):
        return float(re.search(what + r":(-?[\d.]+)em", svg)[1])

    assert measure(site.formula(r"\frac{a}{b}", True), "height") > measure(
        site.formula(r"\frac{a}{b}"), "height"
    )
    assert (
        measure(site.formula("y"), "vertical-align")
        < measure(site.formula("x"), "vertical-align")
        <= 0.01
    )


@pytest.mark.slow
def test_the_site_is_whole(tmp_path, monkeypatch):
    """Each link of each page leads to a file of the site, or to the web by its full name."""
    few = find_notebooks(["05"])
    monkeypatch.setattr(site, "find_notebooks", lambda: few)
    first = site.build(tmp_path)
    assert first == tmp_path / "index.html"
    pages = {path.name: Loads(path.read_text()) for path in tmp_path.glob("*.html")}
    assert {"index.html", "results_checkpoints_README.html"} <= set(pages)
    for path in find_notebooks():
        assert f"{path.stem}.html" in pages, (
            "the README links to each notebook, so each is converted"
        )
    for name, loads in pages.items():
        for link in [*loads.links, *loads.pictures]:
            if not re.match(r"https?:|data:|#|mailto:", link):
                assert (tmp_path / link.partition("#")[0]).is_file(), (name, link)


def test_links_to_what_a_page_cannot_show_are_left_out():
    pages = site.Pages()
    assert pages.linked("results/outcomes") is None
    assert pages.linked("../elsewhere.md") is None
    assert pages.linked("https://example.org/a") == "https://example.org/a"
    assert pages.linked("notebooks/04_finetuning.ipynb#part") == "04_finetuning.html#part"
    assert pages.files == {project_root() / "notebooks" / "04_finetuning.ipynb"}
