"""The site opens offline: nothing comes from elsewhere, no link leads nowhere."""

import re
from html.parser import HTMLParser

import nbformat
import pytest
from mkdocs.exceptions import Abort

from mmlib.store.files import project_root
from scripts import page, site
from scripts.reproduce import find_notebooks


class Loads(HTMLParser):
    """What a page would fetch, its pictures and its links."""

    def __init__(self, text):
        super().__init__()
        self.fetched, self.pictures, self.links = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "a":
            self.links.append(attributes.get("href", ""))
        elif tag == "img":
            self.pictures.append(attributes["src"])
        elif tag in ("script", "link", "iframe", "source", "video", "object", "embed"):
            self.fetched += [value for name, value in attributes.items()
                             if name in ("src", "href", "data")]


def unavailable(*_):
    raise page.PageError("it has its own tests")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "build", unavailable)
        patch.setattr(site.Sources, "api", lambda sources: sources.page_of("losses"))
        site.build(folder, strict=False)
    return folder


@pytest.mark.slow
def test_pages_load_nothing_and_each_link_leads_to_a_file(built):
    pages = {path: Loads(path.read_text("utf-8")) for path in built.rglob("*.html")
             if path.name != "404.html"}
    for path in (*find_notebooks(), project_root() / "docs" / "anywhere.md"):
        assert built / path.relative_to(project_root()).with_suffix(".html") in pages
    for path, loads in pages.items():
        for url in [*loads.fetched, *loads.pictures]:
            assert not re.match(r"(https?:)?//", url), (path, url)
        for link in {*loads.links, *loads.pictures}:
            local = not re.match(r"https?:|data:|#|mailto:|\.$", link)
            if local and "api/" not in link:
                assert (path.parent / link.partition("#")[0]).exists(), (path, link)


@pytest.mark.slow
def test_a_notebook_shows_its_pictures_and_a_docstring_its_module(built):
    notebook = find_notebooks(["04"])[0]
    cells = nbformat.read(notebook, as_version=4).cells
    drawn = sum("image/png" in output.get("data", {})
                for cell in cells for output in cell.get("outputs", ()))
    shown = Loads((built / "notebooks" / f"{notebook.stem}.html").read_text("utf-8")).pictures
    assert len([name for name in shown if "_files/" in name]) == drawn > 0
    assert "nt_xent" in (built / "api" / "losses.html").read_text("utf-8")
    assert (built / "search" / "search_index.js").is_file()  # from files, without a server


def test_links_lead_to_what_the_site_has(tmp_path):
    sources, file = site.Sources(tmp_path), project_root() / "docs" / "x.md"
    assert sources.linked(file, "[a](../site/try.html)") == "a"  # it could not be built
    (tmp_path / "try.html").touch()
    for link, there in {
        "[a](../mmlib/losses/match.py)": "[a](../api/losses.md#mmlib.losses.match)",
        "[a](../mmlib/losses)": "[a](../api/losses.md)",
        "[a](../notebooks/04_finetuning.ipynb#x)": "[a](../notebooks/04_finetuning.md#x)",
        "[a](../site/try.html)": "[a](../try.html)",
        "[a](../results/outcomes)": "a",
        "[a](https://example.org/a)": "[a](https://example.org/a)",
        "[![a](formula.png)](formula.png)": "[![a](formula.png)](formula.png)",
    }.items():
        assert sources.linked(file, link) == there
    assert (tmp_path / "docs" / "formula.png").is_file()


def test_drawn_pictures_are_called_by_their_heading():
    text = "# A `b` [c](d)\n```python\n# no heading\n![png](x)\n```\n![png](y)\n"
    assert site.described(text) == text.replace("![png](y)", "![Drawn under: A b c(d)](y)")


@pytest.mark.slow
def test_a_link_that_leads_nowhere_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "build", unavailable)
    monkeypatch.setattr(site.Sources, "api", lambda sources: [])
    with pytest.raises(Abort):  # the links into the API, which is left out
        site.build(tmp_path, find_notebooks(["05"]))
