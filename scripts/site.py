"""The site, readable offline: `python -m scripts.site`.

MkDocs lays out the README, the docs, the notebooks as they were executed, and the API from the
docstrings. Nothing is run; a page loads nothing from elsewhere, and search works from files. A link
that leads nowhere is an error. The page that reads, `try.html`, is a part, and lends its KaTeX.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nbformat
from mkdocs.commands.build import build as mkdocs_build
from mkdocs.config import load_config
from nbconvert import MarkdownExporter

from mmlib.store.files import project_root
from scripts import page
from scripts.reproduce import find_notebooks

FIRST = "anywhere", "your_data", "method", "claims", "results"  # of the docs; then by name
BORROWED = {"auto-render.min.js": "katex/dist/contrib/auto-render.min.js",
            "shim.js": "iframe-worker/shim/index.js"}  # of the npm packages of the page that reads
SHIM = "https://unpkg.com/iframe-worker/shim"  # what the theme's search loads where files are read
MATH = """document$.subscribe(({ body }) => window.renderMathInElement?.(body, {
  delimiters: [{ left: "\\\\[", right: "\\\\]", display: true }, { left: "\\\\(", right: "\\\\)" }],
  throwOnError: false }));
"""
STYLE = """.md-typeset img { background: white; }
.arithmatex { overflow-x: auto; overflow-y: hidden; }
.md-typeset table:not([class]), .md-typeset .dataframe { display: block; overflow-x: auto; }
.md-typeset .dataframe { width: fit-content; max-width: 100%; }
.md-typeset pre { overflow-x: auto; }
"""
LINK = re.compile(r"\[((?:!\[[^\]]*\]\([^)]*\))|[^\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


class Sources:
    """The pages as MkDocs takes them, under `folder`, in the project's own tree."""

    def __init__(self, folder: Path):
        self.root, self.folder = project_root(), folder

    def linked(self, file: Path, text: str) -> str:
        """Text with its links turned to what the site has; files that it names are copied."""

        def turned(found: re.Match[str]) -> str:
            label, url, part = found[1], found[2], found[3] or ""
            label = self.linked(file, label)
            there = (file.parent / url).resolve()
            if not there.is_relative_to(self.root):
                return found[0]
            inside = there.relative_to(self.root)
            up = "../" * (len(file.relative_to(self.root).parts) - 1)
            if inside.parts[0] == "site":  # the page that reads, if it could be built
                beside = Path(*inside.parts[1:])
                return f"[{label}]({up}{beside})" if (self.folder / beside).exists() else label
            if inside.parts[0] == "mmlib" and there.exists():
                room = inside.parts[1].removesuffix(".py") if len(inside.parts) > 1 else "mmlib"
                module = ".".join(inside.with_suffix("").parts)
                return f"[{label}]({up}api/{room}.md{'#' + module if there.is_file() else ''})"
            if there.is_dir():
                return label
            if there.is_file() and there.suffix not in (".md", ".ipynb"):
                (self.folder / inside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(there, self.folder / inside)
            return f"[{label}]({url.replace('.ipynb', '.md')}{part})"

        return LINK.sub(turned, text)

    def add(self, file: Path) -> str:
        """A page of a Markdown file or notebook; returns its name."""
        name = file.relative_to(self.root).with_suffix(".md")
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        text = file.read_text("utf-8")
        if file.suffix == ".ipynb":
            exporter = MarkdownExporter()  # type: ignore[no-untyped-call]
            named = {"unique_key": file.stem, "output_files_dir": f"{file.stem}_files"}
            notebook = nbformat.reads(text, as_version=4)
            text, resources = exporter.from_notebook_node(notebook, dict(named))
            text = described(text)
            for output, content in resources["outputs"].items():
                (target.parent / output).parent.mkdir(exist_ok=True)
                (target.parent / output).write_bytes(content)
        target.write_text(self.linked(file, text), "utf-8")
        return name.as_posix()

    def api(self) -> list[dict[str, str]]:
        """A page of each room, its modules in turn."""
        rooms = sorted(p.name.removesuffix(".py") for p in (self.root / "mmlib").iterdir())
        return [page for room in rooms if not room.startswith("__") for page in self.page_of(room)]

    def page_of(self, room: str) -> list[dict[str, str]]:
        """The page of a room, for the navigation."""
        package = self.root / "mmlib"
        files = sorted((package / room).glob("*.py")) or [*package.glob(f"{room}.py")]
        names = [".".join(p.relative_to(self.root).with_suffix("").parts) for p in files]
        text = "\n".join(f"::: {name.removesuffix('.__init__')}\n" for name in names)
        (self.folder / "api").mkdir(exist_ok=True)
        (self.folder / "api" / f"{room}.md").write_text(f"# {room}\n\n{text}", "utf-8")
        return [{room: f"api/{room}.md"}]


def described(text: str) -> str:
    """A notebook's Markdown with its drawn pictures called by the heading that they stand under."""
    heading, code, lines = "", False, []
    for line in text.splitlines():
        code ^= line.startswith("```")
        if line.startswith("#") and not code:
            heading = re.sub(r"[][`$\\*]", "", line.lstrip("# "))
        lines.append(line if code else line.replace("![png](", f"![Drawn under: {heading}]("))
    return "\n".join(lines) + "\n"


def build(out: Path | None = None, notebooks: Sequence[Path] | None = None,
          strict: bool = True) -> Path:
    """Write the site, anew, into `out` (default: `site/`); returns its first page.

    Raises mkdocs.exceptions.Abort, if strict, where a link leads nowhere.
    """
    root = project_root()
    out = Path(out or root / "site").resolve()
    with tempfile.TemporaryDirectory() as folder:
        sources, nav = Sources(Path(folder)), []
        try:
            page.build(sources.folder)
            for name, file in BORROWED.items():
                shutil.copyfile(page.modules() / file, sources.folder / "try" / name)
            nav = [{"Write a formula": "try.html"}]
        except (ImportError, page.PageError) as error:
            print(f"try.html, the page that reads, is left out: {error}", file=sys.stderr)
        (sources.folder / "style.css").write_text(STYLE)
        (sources.folder / "math.js").write_text(MATH)
        docs = sorted((root / "docs").glob("*.md"),
                      key=lambda p: (FIRST.index(p.stem) if p.stem in FIRST else 99, p.stem))
        weights = root / "results" / "checkpoints" / "README.md"
        nav = [{"Mask & Match": sources.add(root / "README.md")}, *nav,
               {"Notebooks": [sources.add(path) for path in notebooks or find_notebooks()]},
               {"Docs": [sources.add(path) for path in (*docs, weights)]},
               {"API": sources.api()}]
        given = {"docs_dir": str(sources.folder), "site_dir": str(out), "nav": nav}
        settings = str(Path(__file__).with_name("mkdocs.yml"))
        mkdocs_build(load_config(settings, strict=strict, **given))
    for file in out.rglob("*.html"):
        up = "../" * (len(file.relative_to(out).parts) - 1)
        file.write_text(file.read_text("utf-8").replace(SHIM, f"{up}try/shim.js"), "utf-8")
    return out / "index.html"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser("scripts.site", description=__doc__)
    parser.add_argument("--out", type=Path, help="folder of the pages (site)")
    print(build(parser.parse_args(argv).out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
