"""Every notebook in JupyterLab, in a real browser: Run All, no error, every figure and every widget
on the page.

Debian's Chromium (or another, named by `$CHROMIUM`), driven by Playwright; skipped where there is
none. The notebooks, the results and the figures are copies, so nothing that is committed changes.
With `MMLIB_SCREENSHOTS=FOLDER` each notebook is photographed from top to bottom, for people to look
at.
"""

import base64
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from mmlib.data.corpus import load_corpus
from mmlib.show.diagrams import written
from mmlib.show.ink import drawing
from scripts.reproduce import find_notebooks
from scripts.site import build

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not BROWSER,
        reason=f"no browser: install one of {', '.join(BROWSERS)} (Debian: apt install chromium), "
        "or name it: CHROMIUM=/path/to/it",
    ),
]
MINUTES = 10  # for one notebook
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
SETUP = """
from mmlib.show import widgets
from mmlib.show.pad import TryIt
from mmlib.data.corpus import synthetic_pack
from mmlib.train import attend
from mmlib.train import pretrain
from mmlib.train.profiles import TINY, preset
pack = synthetic_pack("test")
some = [i for i in range(len(pack)) if pack.flat.aligned[i] and 4 <= len(pack[i].symbols) <= 9][:3]
network = attend.Student(TINY.encoder, TINY.maps).eval()
"""
PANELS = {  # in the order of their cells
    "browse": "widgets.browse(pack)",
    "views": "widgets.views(pack, some, pretrain.HARD)",
    "curriculum": (
        "widgets.curriculum(network, preset('attend', 'smoke'), attend.WINDOW, pack, some)"
    ),
    "attention": "widgets.attention({'random': network}, attend.WINDOW, pack, some)",
    "errors": "widgets.errors([pack[i] for i in some], [pack.tokens(i)[1:] for i in some])",
    "try": "TryIt(folder='mine')",
}
# Cells are on the page whether in sight or not, so that what is missing can be told from what is
# not yet drawn.
SETTINGS = {
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
IDLE = "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'"
RUN_ALL = """async () => {
    const app = window.jupyterapp, panel = app.shell.currentWidget;
    await panel.context.ready; await panel.sessionContext.ready;
    await app.commands.execute('notebook:run-all-cells');
    // widgets are drawn after their cell is done
    await new Promise(done => setTimeout(done, 2000));
    return panel.content.model.toJSON();
}"""
# In the panel of the notebook: pictures that did not load, and widgets that were promised and are
# not there.
FAULTS = """() => {
    const panel = document.querySelector('.jp-NotebookPanel:not(.lm-mod-hidden)');
    const found = [...panel.querySelectorAll('.jp-OutputArea-output img')]
        .filter(i => i.offsetParent && !i.naturalWidth)
        .map(i => 'a picture did not load');
    for (const output of panel.querySelectorAll('.jp-OutputArea-output')) {
        const text = output.innerText || '';
        const wrong = /Error (displaying|creating) widget|Loading widget|model not found/;
        if (wrong.test(text)) found.push(text);
        if (/Javascript Error/.test(text)) found.push(text);
    }
    return found;
}"""


@pytest.fixture(scope="module")
def lab(copied_results, tmp_path_factory):
    """JupyterLab on a free port over copies of the notebooks: its address, token and folder."""
    folder = tmp_path_factory.mktemp("lab")
    notebooks = folder / "notebooks"
    notebooks.mkdir()
    for path in find_notebooks():
        shutil.copy(path, notebooks)
    cells = [nbformat.v4.new_code_cell(source) for source in (SETUP, *PANELS.values())]
    nbformat.write(
        nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL}),
        notebooks / "widgets.ipynb",
    )
    for name, values in SETTINGS.items():
        file = folder / "settings" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    environment = copied_results | {
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
    }
    token = secrets.token_hex(16)
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ServerApp.port=0",
        "--ServerApp.ip=127.0.0.1",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={notebooks}",
        "--LabApp.expose_app_in_browser=True",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    with open(folder / "log", "w+") as log:
        server = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            for _ in range(120):
                about = next((folder / "runtime").glob("jpserver-*.json"), None)
                if about or server.poll() is not None:
                    break
                time.sleep(0.5)
            assert about, (folder / "log").read_text()[-3000:]
            assert server.poll() is None, (folder / "log").read_text()[-3000:]
            yield json.loads(about.read_text())["url"], token, notebooks
        finally:
            server.terminate()
            server.wait(30)


@pytest.fixture(scope="module")
def browser():
    """A browser without a window."""
    playwright = pytest.importorskip("playwright.sync_api")
    root = (
        hasattr(os, "geteuid") and os.geteuid() == 0
    )  # Chromium's own sandbox does not start as root
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox"] if root else []
        )
        yield started
        started.close()


def opened(browser, lab, name):
    """The page of a notebook of the lab, ready to be run."""
    address, token, _ = lab
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(60_000)
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.goto(f"{address}lab/tree/{name}?reset&token={token}")
    page.wait_for_function("window.jupyterapp?.shell?.currentWidget?.context?.isReady")
    page.wait_for_selector(".jp-NotebookPanel .jp-Cell")
    return page


@pytest.fixture
def open_notebook(lab, browser):
    """A function that opens a notebook and returns its page, whose console errors are kept in
    `page.errors`.
    """
    pages = []

    def open_it(name):
        pages.append(opened(browser, lab, name))
        return pages[-1]

    yield open_it
    for page in pages:
        page.close()


def photograph(page, name):
    """Screenshots of a notebook from top to bottom, if they are asked for."""
    folder = os.environ.get("MMLIB_SCREENSHOTS")
    if not folder:
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    scroller = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-WindowedPanel-outer").first
    height, step = scroller.evaluate("e => [e.scrollHeight, e.clientHeight - 40]")
    for k in range(-(-height // step)):
        scroller.evaluate("(e, y) => e.scrollTo(0, y)", k * step)
        page.wait_for_timeout(250)
        page.screenshot(path=Path(folder) / f"{name}-{k:02d}.png")


def figures(cells):
    return sum(
        "image/png" in output.get("data", {})
        for cell in cells
        for output in cell.get("outputs", ())
    )


@pytest.mark.parametrize("notebook", find_notebooks(), ids=lambda path: path.stem)
def test_run_all(notebook, open_notebook):
    page = open_notebook(notebook.name)
    page.set_default_timeout(MINUTES * 60_000)
    done = page.evaluate(RUN_ALL)
    photograph(page, notebook.stem)
    code = [
        cell
        for cell in done["cells"]
        if cell["cell_type"] == "code" and "".join(cell["source"]).strip()
    ]
    for cell in code:
        errors = [output for output in cell["outputs"] if output["output_type"] == "error"]
        assert not errors, (cell["source"], errors[0]["evalue"])
        assert cell["execution_count"], f"not run: {cell['source']}"
    committed = json.loads(notebook.read_text())["cells"]
    assert figures(done["cells"]) >= figures(committed), (
        "fewer figures than in the committed notebook"
    )
    assert page.evaluate(FAULTS) == []
    assert page.errors == []


# --- widgets --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def widgets_page(lab, browser):
    """A notebook of all widgets, run."""
    page = opened(browser, lab, "widgets.ipynb")
    done = page.evaluate(RUN_ALL)
    photograph(page, "widgets")
    assert not [o for cell in done["cells"] for o in cell["outputs"] if o["output_type"] == "error"]
    yield page
    page.close()


def panel_of(page, name):
    return (
        page.locator(".jp-NotebookPanel .jp-Cell")
        .nth(1 + list(PANELS).index(name))
        .locator(".jp-OutputArea")
    )


@pytest.mark.parametrize("name", [name for name in PANELS if name != "try"])
def test_each_control_changes_the_picture(widgets_page, name):
    """Sliders by their handles, lists and buttons by choosing the next: the picture is another one
    each time. Each goes back before the next is tried, so that filters do not add up to nothing.
    """
    panel = panel_of(widgets_page, name)
    picture = panel.locator("img.widget-image, .widget-image img, img").first

    def changes(act, what=""):
        before = picture.get_attribute("src")
        act()
        try:
            widgets_page.wait_for_function(
                "([e, src]) => e.src !== src",
                arg=[picture.element_handle(), before],
                timeout=20_000,
            )
        except Exception as error:
            raise AssertionError(f"the picture did not follow: {what}") from error
        last = None  # several presses redraw several times: go on when it has come to rest
        while last != (last := picture.get_attribute("src")):
            widgets_page.wait_for_timeout(500)
            widgets_page.wait_for_function(
                IDLE, timeout=20_000
            )  # while a kernel is busy, a change and its undoing are no change

    handles = panel.locator(".noUi-handle")
    for k in range(handles.count()):
        handle = handles.nth(k)
        low, now = (float(handle.get_attribute(f"aria-value{x}")) for x in ("min", "now"))
        handle.scroll_into_view_if_needed()
        key = "ArrowLeft" if now > low else "ArrowRight"
        back = "ArrowLeft" if key == "ArrowRight" else "ArrowRight"
        for pressed in (key, back):
            # Several steps: one may change nothing, as from a length of 0 to 1. An end of a range
            # stops at the other.
            changes(
                lambda handle=handle, key=pressed: [handle.press(key) for _ in range(6)],
                f"slider {k}, {pressed} from {now}",
            )
    lists = panel.locator("select")
    for k in range(lists.count()):
        chosen = lists.nth(k).evaluate("e => e.selectedIndex")
        if lists.nth(k).locator("option").count() > 1:
            for index in (int(not chosen), chosen):
                changes(
                    lambda k=k, index=index: lists.nth(k).select_option(index=index),
                    f"list {k}, option {index}",
                )
    buttons = panel.locator(".widget-toggle-button:not(.mod-active)")
    if buttons.count():
        changes(buttons.first.click)


def test_ink_is_whole_until_it_is_replayed(widgets_page):
    panel = panel_of(widgets_page, "browse")
    strokes = panel.locator(".widget-slider", has_text="strokes").locator(".widget-readout")
    assert strokes.inner_text() == "100%"
    panel.locator(".widget-play button").first.click()
    widgets_page.wait_for_function(
        "e => e.innerText !== '100%'", arg=strokes.element_handle(), timeout=20_000
    )
    widgets_page.wait_for_function(
        "e => e.innerText === '100%'", arg=strokes.element_handle(), timeout=60_000
    )


@pytest.fixture
def pad(widgets_page):
    """The pad's page and panel, with nothing on it, and what waits for its next message."""
    page, panel = widgets_page, panel_of(widgets_page, "try")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    panel.get_by_role("button", name="Clear").click()
    status = panel.locator(".mmlib-answer > p[role=status]")
    status.filter(has_text="Write a formula").wait_for()

    def after(act):
        """What the panel says when it has answered an action, and the seconds that took."""
        old, began = status.inner_text(), time.perf_counter()
        act()
        page.wait_for_function(
            "([e, old]) => e.querySelector('.mmlib-answer > p').innerText !== old",
            arg=[panel.element_handle(), old],
            polling=10,
        )
        return status.inner_text(), time.perf_counter() - began

    return page, panel, after


def tokens_of(panel):
    return panel.locator(".mmlib-token").all_inner_texts()


def test_drawn_strokes_are_read(pad):
    """Write x^2 with the mouse, read LaTeX back, undo; and how long it takes from pen-up to
    LaTeX.
    """
    page, panel, after = pad
    paper = panel.locator(".mmlib-pad")
    paper.scroll_into_view_if_needed()
    box = paper.bounding_box()

    def write(*points):
        page.mouse.move(box["x"] + points[0][0], box["y"] + points[0][1])
        page.mouse.down()
        for x, y in points[1:]:
            page.mouse.move(box["x"] + x, box["y"] + y, steps=4)
        return after(page.mouse.up)[1]

    strokes = (
        ((60, 80), (110, 150)),
        ((110, 80), (60, 150)),
        ((130, 50), (140, 38), (155, 42), (155, 55), (132, 78), (160, 78)),
    )
    waited = [write(*points) for points in strokes]
    print("seconds from pen-up to LaTeX:", [round(x, 3) for x in waited])
    assert "2" in tokens_of(panel)
    assert max(waited) < 5  # a bar for machines under load; at rest it is a tenth of a second
    assert panel.locator(".mmlib-formula math").count(), "the LaTeX is typeset"
    after(panel.get_by_role("button", name="Undo").click)
    assert "2" not in tokens_of(panel)


def test_a_page_is_read_corrected_by_keyboard_copied_and_kept(pad, lab, tmp_path):
    """A picture by upload and by paste; its rows; attention; a token; other readings; copies."""
    page, panel, after = pad
    rows = [255 - drawing(written(latex, 3)) for latex in ("x^2+1", "y-3")]
    wide = max(row.shape[1] for row in rows)
    rows = [np.pad(r, ((60, 60), (0, wide - r.shape[1])), constant_values=255) for r in rows]
    Image.fromarray(np.concatenate(rows)).save(tmp_path / "page.png")

    upload = panel.locator("input[type=file]")
    said, _ = after(lambda: upload.set_input_files(tmp_path / "page.png"))
    assert said.startswith("page.png, 2 formulas")
    after(panel.get_by_role("button", name="formula 2").click)
    assert tokens_of(panel) == ["y", "-", "3"]
    after(panel.get_by_role("button", name="formula 1").click)
    assert tokens_of(panel) == ["x", "^", "{", "2", "}", "+", "1"]

    heat = "e => e.getContext('2d').getImageData(0, 0, e.width, e.height).data.some(x => x)"
    assert not panel.locator(".mmlib-heat").evaluate(heat)
    panel.locator(".mmlib-token").nth(3).focus()
    assert panel.locator(".mmlib-heat").evaluate(heat)

    def correct():
        page.keyboard.press("Enter")
        page.keyboard.type("3")
        page.keyboard.press("Enter")

    assert after(correct)[0] == "corrected"
    assert tokens_of(panel)[3] == "3"
    panel.get_by_role("button", name="Copy LaTeX").click()
    page.wait_for_function("() => navigator.clipboard.readText().then(t => t === 'x^{3}+1')")
    panel.get_by_role("button", name="Copy MathML").click()
    page.wait_for_function("() => navigator.clipboard.readText().then(t => t.startsWith('<math'))")
    panel.get_by_role("button", name="Copy SymPy").click()
    page.wait_for_function("() => navigator.clipboard.readText().then(t => t === 'x**3 + 1')")
    page.evaluate("""() => { navigator.clipboard.writeText = () => Promise.reject();
                             document.execCommand = () => false; }""")
    panel.get_by_role("button", name="Copy LaTeX").click()  # it must not claim what it cannot
    panel.locator(".mmlib-copied").filter(has_text="forbids").wait_for()
    assert page.evaluate("() => getSelection().toString()") == "x^{3}+1"
    page.evaluate("() => { delete navigator.clipboard.writeText; delete document.execCommand; }")

    keep = panel.get_by_role("button", name="Keep this reading")
    kept = panel.locator(".widget-label")
    for number in range(1, 11):
        keep.click()
        kept.filter(has_text=f"{number} kept in mine").wait_for()
    assert len(load_corpus(str(lab[2] / "mine")).pack) == 10  # as notebook 07 takes it

    assert after(panel.locator(".mmlib-other").nth(1).click)[0] == "another reading"
    data = base64.b64encode((tmp_path / "page.png").read_bytes()).decode()
    paste = """(e, data) => {
        const bytes = Uint8Array.from(atob(data), sign => sign.charCodeAt(0));
        const clipboardData = new DataTransfer();
        clipboardData.items.add(new File([bytes], "pasted.png", { type: "image/png" }));
        e.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));
    }"""
    said, _ = after(lambda: panel.locator(".mmlib-paste").evaluate(paste, data))
    assert said.startswith("pasted.png, 2 formulas")


# --- the site -------------------------------------------------------------------------------------


def test_the_site_opens_offline(browser, tmp_path):
    """Every page with the network cut, of docs, notebooks and API too: nothing is asked for
    elsewhere, every picture is there and says what it is, no scrolling sideways on a phone.
    """
    build(tmp_path)
    context = browser.new_context(viewport={"width": 390, "height": 800}, offline=True)
    page, asked, errors = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    for path in sorted(tmp_path.rglob("*.html")):
        page.goto(path.as_uri())
        assert (
            page.evaluate("[...document.images].filter(i => !i.complete || !i.naturalWidth).length")
            == 0
        ), path.name
        assert page.evaluate("[...document.images].filter(i => !i.alt).length") == 0, path.name
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path.name
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert errors == []
    context.close()
