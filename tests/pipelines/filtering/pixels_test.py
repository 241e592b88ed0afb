import numpy as np
import pytest

from configs.base import Filters
from pipelines.filtering import pixels
from tests.pipelines.filtering import drawn

COPY = Filters().leakage_pixels
SEEDS = range(12)


def _grey(thumbnails):
    return np.frombuffer(b"".join(thumbnails), np.uint8).reshape(-1, 32, 32)


@pytest.fixture(scope="module")
def originals():
    return _grey(drawn.small(drawn.picture(seed)) for seed in SEEDS)


@pytest.mark.parametrize("edit", drawn.EDITS)
def test_edited_pictures_are_copies_whichever_of_the_two_was_edited(originals, edit):
    edited = _grey(drawn.small(drawn.EDITS[edit](drawn.picture(seed)), 60) for seed in SEEDS)
    scores = pixels.similarity(edited, originals)
    assert (scores >= COPY).all() and (scores <= 1).all()
    assert np.array_equal(pixels.similarity(originals, edited), scores)
    # The other way round: every edited picture with another's original.
    assert (pixels.similarity(edited, np.roll(originals, 1, axis=0)) < COPY).all()


def test_look_alikes_are_no_copies():
    """The same large shapes and other details; grey levels alone correlate by more than 0.8."""
    ours = _grey(drawn.small(drawn.picture(seed, layout=99)) for seed in SEEDS)
    theirs = np.roll(ours, 1, axis=0)
    plain = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(ours, theirs, strict=True)]
    assert np.mean(plain) > 0.8
    assert (pixels.similarity(ours, theirs) < COPY).all()


def test_the_same_picture_is_1_and_a_score_depends_on_its_pair_alone(originals, monkeypatch):
    assert np.array_equal(pixels.similarity(originals, originals), np.ones(len(SEEDS), np.float32))
    assert np.array_equal(pixels.similarity(originals, originals[:, :, ::-1]), np.ones(len(SEEDS), np.float32))
    edited = _grey(drawn.small(drawn.EDITS["cut to 75 %"](drawn.picture(seed))) for seed in SEEDS)
    together = pixels.similarity(edited, originals)
    alone = [pixels.similarity(edited[i : i + 1], originals[i : i + 1])[0] for i in SEEDS]
    assert together.tobytes() == np.array(alone, np.float32).tobytes()
    assert len(pixels.similarity(originals[:0], originals[:0])) == 0


def test_blank_pictures_are_recognised(originals):
    ramp = np.repeat(np.linspace(0, 255, 32).astype(np.uint8)[:, None], 32, 1)
    grain = np.random.default_rng(0).integers(127, 130, (32, 32), np.uint8)
    blank = np.stack([np.full((32, 32), 200, np.uint8), ramp, grain])
    assert pixels.blank(blank).all() and not pixels.blank(originals).any()
    assert pixels.similarity(blank, originals[:3]).max() < COPY


def test_drawings_on_an_empty_ground_are_told_from_photographs(originals):
    drawings = _grey(drawn.small(drawn.drawing(sides, color)) for sides in (3, 5) for color in ("red", "green", "gray"))
    assert pixels.grounded(drawings).all() and not pixels.grounded(originals).any()
    assert not len(pixels.grounded(drawings[:0]))
    framed = _grey(drawn.small(drawn.EDITS["framed"](drawn.picture(seed))) for seed in SEEDS)
    # Framed photographs may have a ground, but their originals have none.
    assert (pixels.grounded(framed) & pixels.grounded(originals)).sum() == 0
