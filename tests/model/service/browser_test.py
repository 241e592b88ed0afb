"""The page in Chromium: photographs, keyboard, a phone, the dark, hostile captions, and no request to anybody else."""

import io

import numpy as np
import pytest
from PIL import Image

from tests import chromium
from tests.model.service import serving
from tests.model.service.fake import HOSTILE

pytestmark = pytest.mark.slow


def _photograph(name="a.png", seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return {"name": name, "mimeType": "image/png", "buffer": buffer.getvalue()}


@pytest.fixture(scope="module")
def service():
    with serving.fake() as service:
        yield service


@pytest.fixture(scope="module")
def browser():
    with chromium.launched() as browser:
        yield browser


@pytest.fixture(
    params=[{}, {"color_scheme": "dark"}, {"viewport": {"width": 360, "height": 740}, "has_touch": True}],
    ids=["wide", "dark", "phone"],
)
def page(browser, service, request):
    """A page that must log nothing, throw nothing and ask nobody else."""
    page = browser.new_page(**request.param)
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("request", lambda asking: asked.append(asking.url))
    # From now on choosers go to the test; one who waits for the first key may miss it.
    page.on("filechooser", lambda chooser: None)
    page.goto(service.url)
    yield page
    assert said == []
    assert [url for url in asked if not url.startswith((f"{service.url}/", f"blob:{service.url}/"))] == []
    page.close()


def _faults(page):
    """Returns the rules of axe-core that the page breaks seriously."""
    from axe_playwright_python.sync_playwright import Axe

    # Chromium runs what a test evaluates, whatever the page's policy says.
    found = Axe().run(page).response["violations"]
    return [(each["id"], each["nodes"][0]["html"]) for each in found if each["impact"] in ("serious", "critical")]


def test_photographs_show_their_classes_and_neighbours(page):
    assert _faults(page) == []
    page.set_input_files("#files", [_photograph("cat.png"), _photograph("dog.png", 1)])
    page.wait_for_selector("article")
    cards = page.locator("article")
    assert cards.count() == 2 and cards.nth(1).locator(".name").inner_text() == "dog.png"
    assert cards.nth(0).locator(".classes .label").all_inner_texts()[1] == "dog"
    assert cards.nth(0).locator(".classes .figure").all_inner_texts() == ["33.3 %", "30.0 %", "0.0 %"]
    assert [cards.nth(0).locator(f"{kind} li").count() for kind in (".kept", ".filtered")] == [5, 2]
    # Of ten to one parts of 55, eight neighbours have nine tenths.
    assert "Kept: 8 of 10" in cards.nth(0).inner_text() and "3 more are not shown" in cards.nth(0).inner_text()
    # Ten neighbours: an even weight is 0.1.
    assert "weight 0.182" in page.locator(".kept li").first.inner_text()
    assert "1.82 × even" in page.locator(".kept li").first.inner_text()
    assert page.evaluate("document.images.length") == 2, "a caption became a picture"
    assert page.evaluate("[...document.images].every((image) => image.naturalWidth === 64)")
    caption = page.locator(".kept .caption").first.evaluate("(caption) => caption.textContent")
    assert caption == f"0 {HOSTILE}"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "wider than the screen"
    assert _faults(page) == []


def test_another_head_and_influence_ask_again(page):
    page.set_input_files("#files", _photograph())
    page.wait_for_selector(".kept")
    page.check("#influence")
    page.wait_for_selector("text=influence +0.100")
    page.select_option("#head", "linear")
    page.wait_for_selector("text=This head reads no memory.")
    assert "by linear" in page.inner_text("#status")


def test_the_memory_is_searched_by_text_and_by_photograph(page):
    page.fill("#text", "red & <b>bold</b>")
    page.press("#text", "Enter")
    page.wait_for_selector("article li")
    assert page.locator("article h3").inner_text() == "Nearest to “red & <b>bold</b>”"
    assert page.locator("article li").count() == 12 and _faults(page) == []
    page.set_input_files("#like", _photograph("like.png"))
    page.wait_for_selector("text=Nearest to like.png")
    page.fill("#where", "similarity>=0.3")
    page.press("#text", "Enter")
    page.wait_for_selector("text=where similarity>=0.3")
    assert "</b>”, where similarity>=0.3" in page.inner_text("article h3")
    page.set_input_files("#like", _photograph("like.png"))
    page.wait_for_selector("text=Nearest to like.png, where similarity>=0.3")
    page.fill("#where", "wrong")
    page.press("#text", "Enter")
    page.wait_for_selector("text='wrong': is no filter")


def test_everything_is_reached_by_the_keyboard(page):
    seen = []
    for _ in range(8):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        label = "getComputedStyle(document.activeElement.labels?.[0] ?? document.body).outlineStyle"
        assert "none" not in (page.evaluate(outline), page.evaluate(label)) or page.evaluate(
            f"[{outline}, {label}].some((style) => style !== 'none')"
        )
    assert seen == ["Skip to the results", "files", "head", "influence", "text", "Search", "where", "like"]
    page.focus("#files")
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files([_photograph()])
    page.wait_for_selector(".kept")
    page.focus("#head")
    page.keyboard.press("l")
    page.wait_for_selector("text=This head reads no memory.")


def _give(page, kind, photograph):
    """Drops or pastes a photograph, as a person would."""
    script = """([kind, bytes, name]) => {
      const data = new DataTransfer();
      data.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
      const event = kind === "drop"
        ? new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true })
        : new ClipboardEvent(kind, { clipboardData: data, bubbles: true });
      document.body.dispatchEvent(event);
    }"""
    page.evaluate(script, [kind, list(photograph["buffer"]), photograph["name"]])


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_photograph_is_dropped_or_pasted(page, kind):
    _give(page, kind, _photograph(f"{kind}.png"))
    page.wait_for_selector(".kept")
    assert page.locator(".name").inner_text() == f"{kind}.png"


def test_mistakes_are_said(page):
    page.press("#text", "Enter")
    assert page.inner_text("#status") == "Type a text to search for."
    page.set_input_files("#files", [_photograph(f"{n}.png") for n in range(17)])
    page.wait_for_selector("text=Choose at most 16 photographs at a time.")
    page.set_input_files("#files", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"text"})
    assert page.inner_text("#status") == "That is no photograph."
    bad = {"name": "bad.png", "mimeType": "image/png", "buffer": b"bad"}
    page.set_input_files("#files", [_photograph(), bad])
    page.wait_for_selector("article .failed")
    assert page.locator("article .failed").inner_text() == "is no image"
