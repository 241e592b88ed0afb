"""Whole reports: what they say of hostile data, without pictures, of one head and of one seed; and their bytes."""

import html
import re

import pytest

pytestmark = pytest.mark.slow


def _text(path):
    """Returns the text of a page without style, scripts and tags."""
    page = re.sub(r"<(style|script|textarea).*?</\1>", " ", path.read_text(), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", re.sub(r"</?bdi>", "", page))).split())


def test_what_became_of_the_rows_is_told_with_examples(story):
    shown = _text(story.folder / "data.html")
    # 12 rows of the line and 6 of the enemy: one cannot be decoded, and two have the bytes of test images.
    assert "memory 18 1 0 2 15 3" in shown and "test 16 0 0 0 16 1" in shown
    assert "memory: CannotDecode, 1 row " in shown and "broken" in shown
    assert "leakage 2 rows" in shown and "copy of a row of test" in shown
    assert "rows with a caption 15" in shown and "longest, words 2,000" in shown
    # Exact search of 15 rows, of which a key counts as ten compressed ones.
    assert "1 150 1.0 100.0" in shown
    assert "cost: the work of a query, counted in compressed keys compared" in shown
    assert "cost of a query, in compressed keys compared" in shown and "rows scanned" not in shown


def test_the_same_runs_give_the_same_bytes(story):
    before = {path.name: path.read_bytes() for path in story.folder.glob("*.html")}
    story.report()
    assert {path.name: path.read_bytes() for path in story.folder.glob("*.html")} == before
    assert before.keys() >= {"index.html", "classes.html", "training.html", "data.html"}


def test_the_commands_and_dates_are_told(story):
    shown = _text(story.folder / "index.html")
    assert f"web-memory run --config={story.root}/config.py --config.data={story.root}" in shown
    assert re.search(r"embed 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d", shown)
    assert "2 seeds say little" in shown and "16 test images leave" in shown


def test_one_head_and_one_seed_say_so_and_give_no_deviation(story):
    try:
        story.report("--config.train.heads=mam", "--config.train.seeds=1")
        shown = _text(story.folder / "index.html")
        assert "it was compared with no other head" in shown and "trained with one seed" in shown
        assert "±" not in shown and "Test accuracy, %, of one seed" in shown
        assert "minus" not in _text(story.folder / "classes.html")
        assert "One seed: how far curves vary" in _text(story.folder / "training.html")
    finally:
        story.report()


def test_without_pictures_there_is_a_report_all_the_same(story, capsys):
    folders = {story.root / name: story.root / f"{name} away" for name in ("test", "train", "pairs")}
    try:
        for folder, away in folders.items():
            folder.rename(away)
        story.report()
        assert "no gallery.png" in capsys.readouterr().out
        assert "<img" not in (story.folder / "data.html").read_text()
        assert "<img" not in (story.folder / "classes.html").read_text()
        assert "no picture" in _text(story.folder / "data.html")
    finally:
        for folder, away in folders.items():
            away.rename(folder)
        story.report()
