"""The pages in Chromium, from a disk: keyboard, sorting, copying, a phone, the dark, hostile data, and no request."""

import pytest

from tests import chromium
from tests.model.reports.pages.hostile import CLASSES

pytestmark = pytest.mark.slow
_PAGES = ("index", "classes", "gallery", "training", "data")


@pytest.fixture(scope="module")
def browser():
    with chromium.launched() as browser:
        yield browser


@pytest.fixture(
    params=[
        {"viewport": {"width": 1280, "height": 900}},
        {"viewport": {"width": 820, "height": 1100}, "color_scheme": "dark"},
        {"viewport": {"width": 360, "height": 740}, "has_touch": True},
    ],
    ids=["wide", "dark", "phone"],
)
def page(browser, story, request):
    """A page that must log nothing, throw nothing and ask nobody else."""
    page = browser.new_page(**request.param)
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("request", lambda asking: asked.append(asking.url))
    yield page
    assert said == []
    here = story.folder.resolve().as_uri()
    assert [url for url in asked if not url.startswith((f"{here}/", "data:"))] == []
    page.close()


def _open(page, story, name):
    page.goto((story.folder / f"{name}.html").resolve().as_uri())


def _faults(page):
    """Returns the rules of axe-core that the page breaks."""
    from axe_playwright_python.sync_playwright import Axe

    return [(each["id"], each["nodes"][0]["html"]) for each in Axe().run(page).response["violations"]]


@pytest.mark.parametrize("name", _PAGES)
def test_every_page_is_sound_at_every_width(page, story, name):
    _open(page, story, name)
    assert _faults(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "wider than the screen"
    # A picture of the gallery is loaded when it is near.
    seen = "(image) => image.naturalWidth > 0 || image.loading === 'lazy'"
    assert page.evaluate(f"[...document.images].every({seen})")
    # The gallery's rows are in one, what filters them in another.
    assert page.evaluate("document.scripts.length") == (3 if name == "gallery" else 1)
    assert page.evaluate("document.querySelectorAll('[onload], [onerror]').length") == 0
    assert "\u202e" not in page.content() and "49" not in page.title()


def test_pages_are_reached_from_each_other_by_the_keyboard(page, story):
    _open(page, story, "index")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the contents"
    titles = []
    for _ in _PAGES:
        page.keyboard.press("Tab")
        titles.append(page.evaluate("document.activeElement.textContent"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert titles == ["Results", "Classes", "Gallery", "Training", "Data"]
    page.keyboard.press("Enter")
    page.wait_for_url("**/data.html")
    assert page.locator("nav [aria-current=page]").inner_text() == "Data"


def _column(page, table, column):
    return page.locator(f"{table} tbody tr").evaluate_all(
        "(rows, column) => rows.map((row) => row.cells[column].textContent)", column
    )


def test_a_table_is_sorted_by_its_headers_with_mouse_and_keyboard(page, story):
    _open(page, story, "classes")
    headers = page.locator("#all thead th")
    place = headers.all_inner_texts().index("linear")
    assert {headers.nth(number).get_attribute("aria-sort") for number in range(headers.count())} == {"none"}
    headers.nth(place).get_by_role("button").click()
    rising = [float(text) for text in _column(page, "#all", place)]
    assert rising == sorted(rising) and headers.nth(place).get_attribute("aria-sort") == "ascending"
    headers.nth(place).get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert [float(text) for text in _column(page, "#all", place)] == sorted(rising, reverse=True)
    assert headers.nth(place).get_attribute("aria-sort") == "descending"
    assert page.inner_text("#said") == "Sorted by linear, descending."
    headers.nth(0).get_by_role("button").focus()
    page.keyboard.press("Space")
    assert headers.nth(place).get_attribute("aria-sort") == "none"
    assert headers.nth(0).get_attribute("aria-sort") == "ascending"


def test_a_table_is_copied_or_shown_to_be_copied(page, story):
    _open(page, story, "classes")
    page.locator("#all").get_by_role("button", name="Copy as LaTeX").click()
    page.wait_for_function("document.getElementById('said').textContent !== ''")
    if page.inner_text("#said") != "Copied.":
        assert page.evaluate("document.activeElement.dataset.form") == "latex"
    text = page.locator("#all textarea[data-form=latex]").input_value()
    assert r"red $|$ \textbackslash{}input\{x\} \& 50\%" in text and r"\begin{tabular}" in text
    markdown = page.locator("#all textarea[data-form=markdown]").input_value()
    assert r"| red \| \\input{x} & 50% |" in markdown


def test_class_names_are_shown_as_they_are_but_for_their_direction(page, story):
    _open(page, story, "classes")
    shown = page.locator("#all tbody th").all_inner_texts()
    assert sorted(shown) == sorted(name.replace("\u202e", "\ufffd") for name in CLASSES)
