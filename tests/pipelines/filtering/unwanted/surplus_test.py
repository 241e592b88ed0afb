import numpy as np
import pytest

from pipelines import drawing
from pipelines.filtering.unwanted.surplus import Surplus, merge

NAMES = ["dog", "cat", "bird"]


@pytest.mark.parametrize("most", [1, 3, 100])
def test_each_class_keeps_the_rows_of_its_smallest_numbers(most):
    rng = np.random.default_rng(most)
    ids = rng.integers(0, 1 << 42, 200)
    texts = [" ".join(np.array([*NAMES, "x"])[rng.random(4) < 0.3]) or None for _ in ids]
    surplus = Surplus(NAMES, most, seed=5)
    parts = [surplus.kept(ids[part::4], texts[part::4]) for part in range(4)]
    bounds = surplus.bounds(merge(parts, most))
    assert (bounds == surplus.bounds(merge([merge(parts[2:], most), *parts[:2]], most))).all()
    numbers = drawing.drawn(ids, 5)
    kept, named = set(), set()
    for name in NAMES:
        rows = [row for row, text in enumerate(texts) if text and name in text.split()]
        named |= {*rows}
        kept |= {*sorted(rows, key=lambda row: numbers[row])[:most]}
    found = surplus.surplus(ids, texts, bounds)
    assert set(np.flatnonzero(found)) == named - kept and len(kept) <= 3 * most


def test_rows_without_a_name_or_a_caption_are_none():
    surplus = Surplus(NAMES, 1, 0)
    ids, texts = np.arange(4), ["dogs", None, "a horse", "dog"]
    found = surplus.surplus(ids, texts, surplus.bounds(surplus.kept(ids, texts)))
    assert found.sum() == 1 and not found[1:3].any()
    assert not surplus.surplus(ids[:0], [], surplus.bounds(b"")).any()
