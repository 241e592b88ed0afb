"""The gallery in Chromium, from a disk: filters, keyboard, a phone, the dark, no script, and hostile texts."""

import re

import pytest

from tests import chromium
from tests.model.gallery import made
from tests.model.gallery.made import HOSTILE, IMAGES

pytestmark = pytest.mark.slow
_PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True}


@pytest.fixture(scope="module")
def browser():
    with chromium.launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    made.write(folder, made.material())
    return folder


class Watched:
    """Pages that must log nothing, throw nothing, and load nothing but what is beside them."""

    def __init__(self, browser):
        self.browser, self.said, self.asked, self.pages = browser, [], [], []

    def open(self, folder, address="", **options):
        page = self.browser.new_page(**options)
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("dialog", lambda dialog: self.said.append(dialog.message))
        page.on("request", lambda asking: self.asked.append(asking.url))
        page.on("requestfailed", lambda asking: self.said.append(f"failed: {asking.url}"))
        page.goto(f"file://{folder}/gallery.html{address}")
        self.pages.append(page)
        return page


@pytest.fixture
def watched(browser, tmp_path_factory):
    watched = Watched(browser)
    yield watched
    assert watched.said == []
    pictures = re.compile(r"(file://.*/(gallery.html(#.*)?|pictures/[a-z]+-\d+-\d+\.jpg)|data:,)$")
    assert [url for url in watched.asked if not pictures.match(url)] == []
    for page in watched.pages:
        page.close()


def _faults(page):
    """Returns the rules of axe-core that the page breaks."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [(each["id"], each["nodes"][0]["html"]) for each in found]


def _numbers(page):
    return [int(name.split("-")[1]) for name in page.eval_on_selector_all("h3", "all => all.map(one => one.id)")]


@pytest.mark.parametrize("options", [{}, {"color_scheme": "dark"}, _PHONE], ids=["wide", "dark", "phone"])
def test_nothing_is_wrong_with_the_page(watched, folder, options):
    page = watched.open(folder, **options)
    assert _faults(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "wider than the screen"
    page.click("summary")
    page.check("[value=fixed]")
    assert _faults(page) == []
    assert page.evaluate("document.querySelectorAll('#rows script, #rows bdi *').length") == 0
    page.wait_for_function("document.images[0].complete")
    assert page.evaluate("document.images[0].naturalWidth") == 30
    captions = page.eval_on_selector_all(".caption", "all => all.map(one => one.textContent)")
    assert HOSTILE[0] in captions and HOSTILE[1] in captions


def test_filters_show_what_they_say(watched, folder):
    page = watched.open(folder)
    right = {
        "all": range(IMAGES),
        "mistakes": [n for n in range(IMAGES) if n % 3 == 0],
        "fixed": [n for n in range(IMAGES) if n % 3 and n % 2 == 0],
        "broken": [n for n in range(IMAGES) if n % 3 == 0 and n % 2],
    }
    for show, numbers in right.items():
        page.check(f"input[value={show}]")
        assert page.inner_text(f"label:has([value={show}]) .count") == str(len(numbers))
        seen = _numbers(page)
        if len(numbers) > 20:
            assert page.inner_text("#state") == f"1 to 20 of {len(numbers)} test images"
            while page.is_enabled("#next"):
                page.click("#next")
                seen += _numbers(page)
            assert page.inner_text("#place") == "Page 3 of 3"
        assert seen == list(numbers)
    page.select_option("#class", "2")
    assert _numbers(page) == [n for n in right["broken"] if n % 5 == 2]
    assert page.inner_text("#said") == page.inner_text("#state") == "1 test image"
    page.select_option("#class", "3")
    assert _numbers(page) == [3, 33] and page.inner_text("#state") == "1 to 2 of 2 test images"
    page.go_back()
    page.go_back()
    assert page.input_value("#class") == "" and len(_numbers(page)) == len(right["broken"])


def test_the_address_holds_the_filter(watched, folder):
    page = watched.open(folder, "#show=mistakes&class=1")
    assert _numbers(page) == [6, 21, 36] and page.is_checked("[value=mistakes]") and page.input_value("#class") == "1"
    page = watched.open(folder, "#page=3")
    assert _numbers(page) == list(range(40, IMAGES)) and page.is_disabled("#next")
    for odd in ("#show=x&class=<b>&page=-1", "#page=nan", "#toString", "#show=constructor&class=99"):
        assert _numbers(watched.open(folder, odd)) == list(range(20))
    assert _numbers(watched.open(folder, "#page=1e9")) == list(range(40, IMAGES))


def test_everything_is_reached_by_the_keyboard(watched, folder):
    page = watched.open(folder)
    seen = []
    for _ in range(7):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("(({ id, value, tagName }) => id || value || tagName)(document.activeElement)"))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none"
    assert seen == ["A", "A", "A", "SUMMARY", "all", "class", "next"]
    page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement.id === 'state'")
    assert page.inner_text("#state") == "21 to 40 of 47 test images"
    page.focus("[value=all]")
    page.keyboard.press("ArrowDown")
    page.wait_for_function("location.hash === '#show=mistakes'")
    assert len(_numbers(page)) == 16 and page.is_hidden("#turn")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.wait_for_function("location.hash.includes('class=')")


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"head": "mam", "baseline": None, "pictures": False},
        {"head": "linear", "baseline": None, "attends": False},
    ],
    ids=["all", "one head, no pictures", "no memory"],
)
def test_without_scripts_the_first_rows_are_there_and_they_are_those_of_the_script(watched, tmp_path, given):
    made.write(tmp_path, made.material(**given))
    plain = watched.open(tmp_path, java_script_enabled=False)
    assert plain.locator("article").count() == 20 and plain.is_hidden("#filters")
    assert "Scripts are off" in plain.inner_text("main")
    html = (tmp_path / "gallery.html").read_text()
    rows = re.search('<div id="rows">\n(.*?)\n</div>\n<nav', html, re.DOTALL)[1]
    page = watched.open(tmp_path)
    # Both as the browser writes them; between rows the template has line breaks.
    same = """rows => {
        const given = document.createElement("template"), all = document.getElementById("rows");
        given.innerHTML = rows;
        return [[...given.content.children].map(one => one.outerHTML), [...all.children].map(one => one.outerHTML)];
    }"""
    static, scripted = page.evaluate(same, rows)
    assert static == scripted and len(static) == 20
    assert _faults(page) == []


def test_two_thousand_images_open_in_two_seconds(watched, tmp_path, monkeypatch):
    monkeypatch.setattr(made, "IMAGES", 2000)
    made.write(tmp_path, made.material())
    page = watched.open(tmp_path)
    took = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    assert 0 < took < 2000 and page.inner_text("#state") == "1 to 20 of 2,000 test images"
