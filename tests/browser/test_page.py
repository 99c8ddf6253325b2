"""The page that reads, in a real browser, from its file and without a network.

Formulas are drawn with the mouse, pictures are uploaded and pasted; what the page makes of them is
what Python makes of them with the same graphs. With `MMLIB_SCREENSHOTS=FOLDER` it is photographed.
"""

import base64
import io
import os
import shutil
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmlib.data.corpus import synthetic_pack
from mmlib.draw.raster import rasterise
from mmlib.formula.ink import Ink, typical_size
from mmlib.read.export import export
from mmlib.read.onnx import onnx_reader
from mmlib.read.reader import Reader, recognize
from mmlib.show.diagrams import written
from scripts import page as pages

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
SHOTS = os.environ.get("MMLIB_SCREENSHOTS")
MOST_BYTES = 15 * 2**20  # of a first load
MOST_SECONDS = 0.3  # from pen-up to LaTeX, median
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BROWSER, reason="no browser: apt install chromium, or CHROMIUM=PATH"),
]
pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
LATEX = "() => reading.readings[0]?.latex"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    try:
        pages.build(folder)
    except pages.PageError as error:
        pytest.skip(str(error))
    return folder


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """The graphs that the page has, in Python."""
    folder = tmp_path_factory.mktemp("export")
    export(Reader.load(), folder)
    return onnx_reader(folder, small=True)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def opened(browser, site, **options):
    """The page, ready, with what its console says in `page.said`."""
    context = browser.new_context(offline=True, **options)
    page = context.new_page()
    page.set_default_timeout(180_000)
    page.said = []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.goto((site / "try.html").as_uri())
    page.wait_for_selector("html[data-ready=yes]", timeout=180_000)
    return page


@pytest.fixture
def desk(browser, site):
    page = opened(browser, site, viewport={"width": 1280, "height": 800})
    yield page
    assert page.said == []
    page.context.close()


def settle(page):
    page.wait_for_function("() => !busy && !waiting && document.documentElement.dataset.read === "
                           "String(asked)", timeout=180_000)


def strokes_of(ink, box, scale=32.0):
    """Strokes of an ink, in pixels of the window, in the middle of the paper."""
    size = typical_size(ink.points, ink.stroke)
    wide, high = np.ptp(ink.points, axis=0) / size
    scale = min(scale, 0.9 * box["width"] / wide, 0.9 * box["height"] / high)
    corner = (box["x"] + (box["width"] - scale * wide) / 2,
              box["y"] + (box["height"] - scale * high) / 2)
    low = ink.points.min(0)
    return [np.round((s - low) / size * scale + corner).tolist() for s in ink.strokes()]


def draw(page, strokes):
    for stroke in strokes:
        page.mouse.move(*stroke[0])
        page.mouse.down()
        for point in stroke[1:]:
            page.mouse.move(*point)
        page.mouse.up()


def drawn_inks(count):
    pack = synthetic_pack("test")
    return [pack[i] for i in range(len(pack)) if 4 <= len(pack.tokens(i) or ()) <= 16][:count]


def test_first_load_is_small(site):
    files = [site / "try.html", *(site / "try").rglob("*")]
    assert sum(file.stat().st_size for file in files if file.is_file()) <= MOST_BYTES
    assert "://" not in (site / "try.html").read_text().replace("http://www.w3.org", "")


def test_formulas_drawn_by_mouse_read_as_python_reads_them(desk, reader):
    box, times = desk.locator("#paper").bounding_box(), []
    desk.evaluate("""() => {
        paper.addEventListener("pointerup", () => { window.upAt = performance.now(); }, true);
        RECEIVED.read = (show => data => { show(data); window.shownAt = performance.now(); })(
            RECEIVED.read); }""")
    for ink in drawn_inks(10):
        if desk.is_enabled("#clear"):
            desk.click("#clear")
        settle(desk)
        draw(desk, strokes_of(ink, box)[:-1])
        settle(desk)
        draw(desk, strokes_of(ink, box)[-1:])
        settle(desk)
        times.append(desk.evaluate("() => window.shownAt - window.upAt") / 1000)
        seen = desk.evaluate("() => page.strokes")
        assert desk.evaluate(LATEX) == recognize(Ink.from_strokes(seen), reader=reader)[0].latex
        assert desk.locator("#formula .katex").count() >= 1
    print(f"pen-up to LaTeX: median {statistics.median(times):.3f} s, most {max(times):.3f} s")
    assert statistics.median(times) <= MOST_SECONDS
    if SHOTS:
        desk.screenshot(path=Path(SHOTS) / "try-desk.png", full_page=True)


def upload(page, content):
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": content})


def png(levels):
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "PNG")
    return file.getvalue()


def drawing(ink, symbol, pen):
    """Dark on light (H, W), of `symbol` pixels per typical symbol."""
    points = (ink.points - ink.points.min(0)) / typical_size(ink.points, ink.stroke)
    points = torch.from_numpy(points * symbol + 12)
    wide, high = (int(v) + 12 for v in points.amax(0))
    stroke, owner = torch.from_numpy(ink.stroke).long(), torch.zeros(len(points)).long()
    drawn = rasterise(points, stroke, owner, (1, high, wide), pen)[0, 0].numpy()
    return 255 - (drawn * 255).round().astype(np.uint8)


def pictures():
    """Dark on light and light on dark, thin and thick, in colour and with transparent paper."""
    for number, ink in enumerate(drawn_inks(14)[9:]):
        grey = drawing(ink, 24 + 8 * number, 2.0 + number)
        if number == 1:
            yield png(255 - grey)
        elif number == 2:  # blue on white
            yield png(np.stack([grey, grey, np.full_like(grey, 255)], -1))
        elif number == 3:
            yield png(np.stack([np.zeros_like(grey)] * 3 + [255 - grey], -1))
        else:
            yield png(grey)


@pytest.mark.parametrize("way", ["upload", "paste"])
def test_pictures_read_as_python_reads_them(desk, reader, way):
    for content in pictures():
        before = desk.evaluate("() => asked")
        if way == "upload":
            upload(desk, content)
        else:
            desk.evaluate("""text => {
                const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
                const data = new DataTransfer();
                data.items.add(new File([bytes], "a.png", { type: "image/png" }));
                document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data })); }""",
                          base64.b64encode(content).decode())
        desk.wait_for_function("before => asked > before", arg=before)
        settle(desk)
        ours = recognize(Image.open(io.BytesIO(content)), reader=reader)[0].latex
        assert desk.evaluate(LATEX) == ours


def test_by_keyboard_undo_alternatives_copy_and_attention(desk):
    for key in ("Example", "Example"):
        desk.get_by_role("button", name=key).focus()
        desk.keyboard.press("Enter")
        settle(desk)
    strokes = desk.evaluate("() => page.strokes.length")
    desk.keyboard.press("Control+z")
    settle(desk)
    assert desk.evaluate("() => page.strokes.length") != strokes
    best = desk.evaluate(LATEX)
    assert desk.locator("#latex").input_value() == best
    desk.wait_for_function("() => reading.maps")
    token = desk.locator("#tokens button").first
    token.focus()
    assert desk.evaluate("""() => heat.getContext("2d").getImageData(0, 0, heat.width, heat.height)
                         .data.some(value => value)""")
    desk.keyboard.press("ArrowRight")
    assert desk.evaluate("() => document.activeElement.dataset.at") == "1"
    radios = desk.get_by_role("radio")
    assert 1 < radios.count() <= 5
    radios.first.focus()
    desk.keyboard.press("ArrowDown")
    second = desk.evaluate("() => reading.readings[1].latex")
    assert copied(desk, "LaTeX") == second
    desk.locator("#paper").focus()
    desk.keyboard.press("Delete")
    settle(desk)
    assert desk.get_by_role("img", name="Paper, empty").count() == 1


def copied(page, name):
    """What is on the clipboard after a click on a button."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name=f"Copy {name}").click()
    page.wait_for_function("name => document.querySelector('#copied').textContent === "
                           "`${name} copied.`", arg=name)
    return page.evaluate("() => navigator.clipboard.readText()")


def test_a_token_is_corrected_and_both_buttons_copy_it(desk):
    """Also where LaTeX has what the reader has not; the correction outlives another reading."""
    draw(desk, strokes_of(written("x^2+1", 3), desk.locator("#paper").bounding_box()))
    settle(desk)
    best = desk.evaluate(LATEX)
    tokens = desk.locator("#tokens button")
    assert tokens.all_inner_texts() == desk.evaluate(
        "() => reading.readings[0].ids.map(id => MODEL.card.vocabulary[id])")
    tokens.nth(0).click()
    desk.keyboard.type(r"\vec{v}")
    corrected = best.replace("x", r"\vec{v}", 1)
    assert desk.locator("#status").inner_text() == "Corrected by hand."
    assert desk.locator("#formula .katex-accent").count() == 1  # typeset as it was typed
    assert copied(desk, "LaTeX") == corrected
    mathml = copied(desk, "MathML")
    assert mathml.startswith("<math")
    assert "<mover" in mathml
    assert "annotation" not in mathml
    assert tokens.last.get_attribute("data-at")  # what was not corrected keeps its attention
    desk.get_by_role("radio").nth(1).check()  # the reading again, and back
    assert desk.locator("#latex").input_value() == best
    desk.get_by_role("radio", name="as corrected by hand").check()
    assert desk.locator("#latex").input_value() == corrected
    box = desk.locator("#paper").bounding_box()
    draw(desk, [[[box["x"] + 9, box["y"] + 9], [box["x"] + 30, box["y"] + 40]]])
    settle(desk)
    desk.click("#undo")
    settle(desk)
    assert desk.locator("#latex").input_value() == corrected
    desk.locator("#latex").fill(r"\frac{")
    assert desk.locator("#status").inner_text().startswith("Not typeset: ")
    assert desk.is_disabled("#copy-mathml")
    assert copied(desk, "LaTeX") == r"\frac{"


def test_where_copying_is_forbidden_the_text_is_shown_selected(desk):
    desk.click("#example")
    settle(desk)
    desk.evaluate("""() => { navigator.clipboard.writeText = () => Promise.reject();
                             document.execCommand = () => false; }""")
    desk.click("#copy-latex")
    desk.wait_for_function("() => document.querySelector('#copied').textContent.includes('Ctrl+C')")
    assert desk.evaluate("() => getSelection().toString()") == desk.evaluate(LATEX)


def test_the_page_is_as_sure_as_python_and_shows_what_it_saw(desk, reader):
    """Of written ink and of pictures, doubtful ones too, which are read in several ways."""
    desk.click("#example")
    settle(desk)
    ink = Ink.from_strokes(desk.evaluate("() => page.strokes"))
    sure = desk.evaluate("() => reading.readings[0].sure")
    ours = recognize(ink, reader=reader)[0]
    assert sure["whole"] == pytest.approx(ours.confidence, abs=0.01)
    assert sure["tokens"] == pytest.approx(ours.token_confidence, abs=0.01)
    assert desk.is_hidden("#seen")
    for content in (*pictures(), png(drawing(written("1+1=2", 1), 40, 4.0))):
        before = desk.evaluate("() => asked")
        upload(desk, content)
        desk.wait_for_function("before => asked > before", arg=before)
        settle(desk)
        found = desk.evaluate("() => reading.readings[0]")
        ours = recognize(Image.open(io.BytesIO(content)), reader=reader)[0]
        assert found["score"] == pytest.approx(ours.score, abs=0.01)
        assert found["sure"]["whole"] == pytest.approx(ours.confidence, abs=0.02)
        assert found["sure"]["tokens"] == pytest.approx(ours.token_confidence, abs=0.02)
        said = desk.locator("#status").inner_text()
        assert f"{100 * found['sure']['whole']:.0f} % sure" in said
        assert said.startswith("Doubtful") == ours.doubtful
    assert desk.evaluate("""() => ink.clientWidth > 50 && ink.getContext("2d")
                         .getImageData(0, 0, ink.width, ink.height).data.some(v => v)""")


def test_a_long_formula_is_shown_whole(desk):
    desk.click("#example")
    settle(desk)
    desk.locator("#latex").fill(r"\sqrt{" + "+".join(["x^{2}"] * 15) + "}")
    assert desk.evaluate("() => formula.scrollWidth <= formula.clientWidth")


def test_what_is_no_formula_is_said(desk):
    upload(desk, b"no picture")
    desk.wait_for_function("() => document.querySelector('#status').classList.contains('wrong')")
    blank = png(np.full((40, 60), 255, np.uint8))
    upload(desk, blank)
    desk.wait_for_function("() => document.querySelector('#status').textContent.includes('no ink')")
    box = desk.locator("#paper").bounding_box()
    x, y = box["x"] + 50, box["y"] + 20
    draw(desk, [[[x + 50 * i, y + down], [x + 50 * i + 30, y + down + 30]]
                for down in (0, 200) for i in range(4)])
    desk.wait_for_function("() => document.querySelector('#status').textContent.includes('rows')")


def test_a_finger_on_a_phone_in_the_dark(browser, site):
    phone = opened(browser, site, viewport={"width": 390, "height": 844}, has_touch=True,
                   is_mobile=True, color_scheme="dark", device_scale_factor=2)
    assert phone.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
    box, session = phone.locator("#paper").bounding_box(), phone.context.new_cdp_session(phone)
    for stroke in strokes_of(drawn_inks(3)[2], box):
        moves = [("touchMove", [point]) for point in stroke[1:]]
        for kind, points in (("touchStart", stroke[:1]), *moves, ("touchEnd", [])):
            touches = [{"x": x, "y": y} for x, y in points]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})
    settle(phone)
    assert phone.evaluate(LATEX)
    assert phone.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
    assert phone.evaluate("() => scrollY") == 0  # the finger drew and did not scroll
    phone.wait_for_function("() => reading.maps")
    phone.locator("#tokens button").nth(1).tap()
    assert phone.evaluate("() => document.activeElement.id") == "latex"
    if SHOTS:
        phone.screenshot(path=Path(SHOTS) / "try-phone.png", full_page=True)
    assert phone.said == []
    phone.context.close()
