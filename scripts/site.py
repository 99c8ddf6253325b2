"""The executed notebooks as pages that open offline: `python -m scripts.site`.

nbconvert converts what is committed; nothing is run, and a page loads nothing from elsewhere.
Matplotlib sets the formulas, as outlines in the page; a widget is its static picture. The README is
the first page, and files that a page links to are copied beside it.
"""

from __future__ import annotations

import argparse
import html
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import nbformat
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath, text_to_path
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from mmlib.store.files import project_root
from scripts import page
from scripts.reproduce import find_notebooks

# JupyterLab's page without its scripts, which all come from other hosts. It is no wider than a line
# that can be read, and fits a phone.
TEMPLATE = """{% extends 'lab/index.html.j2' %}
{% block html_head_js %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block jupyter_widgets %}{% endblock %}
{% block html_head_css %}<style>
main { max-width: 1180px; margin: auto; }
nav { padding: 0 8px; font: 14px sans-serif; }
nav a { color: #0072B2; }
.jp-RenderedImage img, .jp-RenderedMarkdown img {
  max-width: 100%; height: auto; background: white; }
.jp-RenderedMarkdown, .jp-RenderedHTMLCommon { overflow-x: auto; }
div.jp-InputArea-editor { overflow-x: auto; }
.jp-RenderedMarkdown pre {
  background: #f5f5f5; padding: 8px; margin: 8px 0; overflow-x: auto; white-space: pre; }
.math { font-size: 1.1em; }
.math.display { display: block; text-align: center; margin: 1em 0; overflow-x: auto; }
.math svg { overflow: visible; fill: currentColor; }
@media (max-width: 700px) {
  .jp-InputPrompt, .jp-OutputPrompt { display: none !important; }
  body.jp-Notebook { padding: 4px; }
}
</style>{% endblock %}
{% block body_header %}{{ super() }}{% if nb.metadata.title != 'Mask & Match' %}
<nav><a href="index.html">Mask &amp; Match</a></nav>{% endif %}{% endblock %}"""
# What TeX knows and matplotlib does not, and what says the same to it.
TEX = (
    (r"\\[bB]ig(?![a-z])", ""),
    (r"\\tfrac", r"\\frac"),
    (r"\\[lr]Vert(?![a-z])", r"\\Vert "),
    (r"(\\d?frac)\s*(\w)\s*(\w)", r"\1{\2}{\3}"),
    (r"\s+", " "),
)


@cache
def formula(tex: str, display: bool = False) -> str:
    """A formula of TeX as SVG outlines in the colour of the text; a screen reader says its source.

    display: on a line of its own, with fractions at full size. Raises ValueError where matplotlib
    cannot set it.
    """
    known, size = tex.strip(), 10.0
    if display:
        known = known.replace(r"\frac", r"\dfrac")
    for pattern, better in TEX:
        known = re.sub(pattern, better, known)
    with mpl.rc_context({"mathtext.fontset": "cm"}):
        outline = TextPath((0, 0), f"${known}$", size=size)
        font = FontProperties(size=size)
        extent = text_to_path.get_text_width_height_descent(f"${known}$", font, True)
    letter = {1: "M", 2: "L", 3: "Q", 4: "C", 79: "Z"}  # matplotlib.path.Path's codes
    drawn = ""
    for points, code in outline.iter_segments(simplify=False, curves=True):
        downward = (points.reshape(-1, 2) * (1, -1)).ravel()
        ends = "" if code == 79 else " ".join(f"{x:.2f}" for x in downward)
        drawn += letter[int(code)] + ends
    width, height, depth = extent
    em = [f"{x / size:.3f}em" for x in (width, height, -depth)]
    where = f"width:{em[0]};height:{em[1]};vertical-align:{em[2]}"
    box = f"0 {depth - height:.2f} {width:.2f} {height:.2f}"
    return (f'<svg role="img" aria-label="{html.escape(tex.strip())}" style="{where}" '
            f'viewBox="{box}"><path d="{drawn}"/></svg>')


class _Renderer(IPythonRenderer):
    """Markdown to HTML, its formulas set and its links turned to the site's own pages."""

    def __init__(self, pages: Pages):
        super().__init__(escape=False)
        self.pages = pages

    def block_math(self, body: str) -> str:
        return f'<span class="math display">{formula(body, True)}</span>'

    def inline_math(self, body: str) -> str:
        return f'<span class="math">{formula(body)}</span>'

    def link(self, text: str, url: str, title: str | None = None) -> str:
        there = self.pages.linked(url)
        return super().link(text, there, title) if there else text

    def image(self, text: str, url: str, title: str | None = None) -> str:
        return super().image(text, self.pages.linked(url) or url, title)


class Pages(HTMLExporter):
    """Notebooks to HTML without a script; remembers the project's files that the pages link to."""

    def __init__(self, **options: Any):
        super().__init__(raw_template=TEMPLATE, **options)  # type: ignore[no-untyped-call]
        self.folder = project_root()  # of the page at work
        self.files: set[Path] = set()  # linked by all pages

    def default_filters(self) -> Iterator[tuple[str, Any]]:
        yield from super().default_filters()  # type: ignore[no-untyped-call]
        renderer = _Renderer(self)
        yield "markdown2html", lambda source: MarkdownWithMath(renderer=renderer).render(source)

    def linked(self, url: str) -> str | None:
        """Where a link leads on the site; None for a folder or a file that is not there."""
        if re.match(r"[a-z]+:|#", url):
            return url
        path, _, part = url.partition("#")
        file = Path(os.path.normpath(self.folder / path))
        if not file.is_file() or not file.is_relative_to(project_root()):
            return None
        self.files.add(file)
        return name_of(file) + (f"#{part}" if part else "")

    def page(self, path: Path) -> str:
        """The page of a notebook or of a Markdown file."""
        self.folder = path.parent
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            notebook = nbformat.reads(text, as_version=4)
        else:
            notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
        title = re.search(r"^# (.+)", notebook.cells[0].source, re.MULTILINE)
        notebook.metadata["title"] = title[1] if title else path.stem
        return self.from_notebook_node(notebook)[0]


def name_of(file: Path) -> str:
    """The name of a file on the site: pages lie side by side, other files as in the project."""
    inside = file.relative_to(project_root())
    if file.suffix == ".ipynb":
        return f"{file.stem}.html"
    if file.suffix == ".md":
        page = "_".join(inside.with_suffix("").parts)
        return "index.html" if page == "README" else f"{page}.html"
    return inside.as_posix()


def build(out: Path | None = None) -> Path:
    """Write the site, anew, into `out` (default: `site/`); returns its first page."""
    out, pages = Path(out or project_root() / "site"), Pages()
    out.mkdir(parents=True, exist_ok=True)
    waiting, done = {project_root() / "README.md", *find_notebooks()}, set()
    while waiting:
        file = min(waiting)
        target = out / name_of(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix in (".ipynb", ".md"):
            target.write_text(pages.page(file), encoding="utf-8")
        else:
            shutil.copyfile(file, target)
        done.add(file)
        waiting = (waiting | pages.files) - done
    return out / "index.html"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser("scripts.site", description=__doc__)
    parser.add_argument("--out", type=Path, help="folder of the pages (site)")
    first = build(parser.parse_args(argv).out)
    try:
        print(page.build(first.parent))
    except (ImportError, page.PageError) as error:
        print(f"try.html, the page that reads, is left out: {error}", file=sys.stderr)
    print(first)
    return 0


if __name__ == "__main__":
    sys.exit(main())
