"""What the gallery's page says of known images and neighbours, and that strangers' texts stay texts."""

import dataclasses
import json
import re

import numpy as np
import pytest

from model.gallery import page, wording
from model.gallery.page import percent
from model.gallery.thumbnails import Written
from tests.model.gallery import made
from tests.model.gallery.made import HOSTILE, IMAGES


def test_the_lists_of_fixed_and_broken_images():
    labels, ours, theirs = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 2, 2]), np.array([1, 0, 1, 0, 0])
    found = page.kinds(labels, ours, theirs)
    assert {name: np.flatnonzero(mask).tolist() for name, mask in found.items()} == {
        "all": [0, 1, 2, 3, 4],
        "mistakes": [1, 3],
        "fixed": [0, 4],
        "broken": [1],
    }
    assert list(page.kinds(labels, ours, None)) == ["all", "mistakes"]


@pytest.mark.parametrize(
    ("share", "text"),
    [
        *((0.0, "0 %"), (1e-9, "< 0.01 %"), (0.000099, "< 0.01 %"), (0.0001, "0.010 %"), (0.00123, "0.12 %")),
        *((0.0123, "1.2 %"), (0.1, "10.0 %"), (0.12345, "12.3 %"), (1.0, "100.0 %")),
    ],
)
def test_shares_are_short_and_none_above_zero_looks_like_zero(share, text):
    assert percent(share) == text.replace(" ", "\u00a0")


def test_an_image_has_its_neighbours_in_order_with_all_that_is_known_of_them():
    material = made.material()
    whole = page.payload(material)
    # Image 7: of class 2, right (7 is no multiple of 3), linear is right (7 is odd).
    view = page.view(whole, 7)
    assert (view["label"], view["verdict"], view["file"]) == ("class 2", "right", "test-0-7.jpg")
    assert view["said"] == "right: mam says class 2, 75.0\u00a0%"
    assert view["without"] == "right without memory: linear says class 2"
    kept, filtered = view["lists"]
    # The weights 1/2 + 1/4 + 1/8 + 1/16 are the fewest that hold nine tenths.
    assert kept["title"] == "Kept: 4 of 24, 93.8\u00a0% of the weight" and len(kept["near"]) == 4
    assert filtered["title"] == "Filtered out: 20; shown are the 12 smallest" and len(filtered["near"]) == 12
    assert [near["figures"][0] for near in kept["near"]] == [
        f"weight {share}\u00a0%" for share in ("50.0", "25.0", "12.5", "6.3")
    ]
    assert [near["share"] for near in kept["near"]] == ["100.0", "50.0", "25.0", "12.5"]
    assert [near["file"] for near in kept["near"]] == [f"memory-3-{7 + place}.jpg" for place in range(4)]
    assert kept["near"][1]["figures"][-1] == "about the class", "row 8 is"
    ranks = [int(re.search("rank ([0-9]+)", near["figures"][1])[1]) for near in filtered["near"]]
    assert ranks == list(range(13, 25)) and filtered["near"][-1]["figures"][0] == "weight <\u00a00.01\u00a0%"
    assert page.view(whole, 1)["lists"][1]["title"] == "Filtered out: 0", "of a list of three all are kept"
    assert page.view(whole, 0)["verdict"] == "wrong"


def test_a_kept_neighbour_never_shows_a_weight_of_zero():
    material = made.material()
    # Attention to a null slot may leave next to nothing for the neighbours.
    tiny = material.shown.weights * np.float32(1e-12)
    shown = dataclasses.replace(material.shown, weights=tiny)
    whole = page.payload(dataclasses.replace(material, shown=shown))
    for place in range(IMAGES):
        figures = [near["figures"][0] for near in page.view(whole, place)["lists"][0]["near"]]
        assert figures and all(figure == "weight <\u00a00.01\u00a0%" for figure in figures)


def test_the_page_says_what_it_shows(tmp_path):
    facts = made.write(tmp_path, made.material())
    wrong, fixed, broken = 16, 16, 8
    assert facts["lead"] == (
        f"mam (seed 0) is right on 31 of the 47 test images shown, 66.0\u00a0%. Memory fixes {fixed} mistakes of "
        f"linear, which reads none, and breaks {broken} of its right answers."
    )
    assert [(kind["title"], kind["count"]) for kind in facts["kinds"]] == [
        *(("all", "47"), ("mistakes", str(wrong))),
        *(("fixed by memory", str(fixed)), ("broken by memory", str(broken))),
    ]
    terms = dict(facts["terms"])
    assert terms["Test images"] == "47 of 94, drawn at random once and for all with the config's seed."
    assert "sum to 90.0\u00a0% of the weight of the whole list. None of them has weight zero" in terms["Kept"]
    assert terms["Neighbours"].startswith("16 of at most 24 are shown")
    assert terms["Pictures"].endswith("1.2 MB in all.")


def test_a_head_without_memory_or_without_weights_says_so():
    def terms(material):
        nothing = Written([])
        return dict(wording.facts(material, page.payload(material), IMAGES, nothing, [], "it was lost")["terms"])

    without = terms(made.material("linear", None, attends=False, pictures=False))
    assert without["Neighbours"].endswith("linear reads no memory, so nothing is kept or filtered.")
    assert without["Pictures"] == "None: test images and memory were embedded from vectors."
    assert "Kept" not in without and "Fixed by memory" not in without
    assert without["Test images"] == "All 47 of the test split, in its order."
    other = terms(made.material("rac", attends=False))
    assert other["Neighbours"].endswith("rac gives its neighbours no weights, so nothing is kept or filtered.")
    assert other["Influence"] == "Not known: it was lost"
    whole = page.payload(made.material("rac", attends=False))
    (only,) = page.view(whole, 0)["lists"]
    assert only["title"] == "The nearest of 24 neighbours" and only["near"][0]["figures"] == [
        *("cosine 0.90, rank 1", "about the class"),
    ]


def test_pictures_that_are_missing_are_counted(tmp_path):
    written = Written([["a.jpg", None]], 5_000_000, 3, 2, "x.tar: no such file")
    facts = made.write(tmp_path, made.material(), written)
    assert dict(facts["terms"])["Pictures"] == (
        "1, of at most 96 pixels a side, 5.0 MB in all. 3 could not be read again (x.tar: no such file). 2 are on the "
        "web and were not downloaded."
    )


def test_texts_of_strangers_stay_texts(tmp_path):
    made.write(tmp_path, made.material())
    html = (tmp_path / "gallery.html").read_text()
    assert len(re.findall("<script", html)) == 3 and html.count("</script>") == 3, "a caption became a script"
    assert html.count("<article") == 20 and html.count("</article>") == 20 and "<img src=x" not in html
    assert "\u202e" not in html and "\x00" not in html and "49 " not in html
    assert len(html) < 400_000, "texts of ten thousand characters are cut"
    payload = json.loads(re.search('id="gallery">(.*?)</script>', html, re.DOTALL)[1])
    captions = {caption for caption, _ in payload["memory"]}
    assert HOSTILE[0] in captions and HOSTILE[1] in captions and "" in captions
    assert all(len(caption) <= 160 and "\n" not in caption for caption in captions)
