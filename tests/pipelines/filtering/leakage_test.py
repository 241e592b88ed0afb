import numpy as np
import pytest

from configs.base import Filters
from pipelines.filtering import leakage, similarity
from pipelines.filtering.leakage import Queries, Rule
from tests.pipelines.filtering import drawn
from tests.pipelines.selection_world import Rows, brute_leakage, near_to


@pytest.fixture
def splits(tmp_path):
    splits = {"val": Rows.random([4, 0, 6], seed=1), "test": Rows.random([9], seed=2)}
    for name, rows in splits.items():
        rows.write(tmp_path / name)
    return splits, {name: str(tmp_path / name) for name in splits}


def test_queries_are_ordered_by_split_then_id(splits):
    rows, folders = splits
    queries = Queries.load(folders)
    assert queries.ids.tolist() == [*rows["val"].ids, *rows["test"].ids]
    assert queries.splits.tolist() == [0] * 10 + [1] * 9
    turned = Queries.load(dict(reversed(folders.items())))
    assert turned.ids.tolist() == [*rows["test"].ids, *rows["val"].ids]
    np.testing.assert_allclose(turned.keys[:9], rows["test"].keys, atol=1e-6)


def test_copies_equal_brute_force_and_bytes_go_before_cosines(splits):
    rows, folders = splits
    memory = Rows.random([30], seed=3)
    memory.keys[:9] = near_to(rows["test"].keys, np.linspace(0.85, 0.99, 9))
    # The bytes of one query, the key of another.
    memory.images[4] = rows["val"].images[7]
    queries = Queries.load(folders)
    images = np.frombuffer(b"".join(memory.images), "S32")
    nothing = np.zeros((30, 32, 32), np.uint8), np.zeros(30, bool)
    found = queries.matches(leakage.Rows(images, similarity.unit(memory.keys), *nothing), Rule(0.9))
    query, cosine = found.query, found.cosine
    assert np.array_equal(found.is_copy, query != similarity.NONE) and np.isnan(found.pixels).all()
    right = brute_leakage(memory, rows, 0.9)
    for i, place in enumerate(query):
        if place == similarity.NONE:
            assert i not in right and cosine[i] == -np.inf
        else:
            split, twin, value = right.pop(i)
            assert (["val", "test"][queries.splits[place]], queries.ids[place]) == (split, twin)
            assert cosine[i] == pytest.approx(value, abs=1e-6)
    assert not right and (query[4], cosine[4]) == (7, 1.0)


@pytest.mark.parametrize(("cosine", "is_copy"), [(0.8, False), (0.95, True)])
def test_outlines_alone_make_no_copy(tmp_path, cosine, is_copy):
    """A red and a grey triangle, whose details agree; a photograph is a copy at either cosine."""
    rule = Rule.of(Filters())
    query = Rows.random([2], seed=1)
    query.thumbnails = [drawn.small(drawn.drawing(3, "gray")), drawn.small(drawn.picture(1))]
    query.write(tmp_path / "val")
    ours = [drawn.small(drawn.drawing(3, "red")), drawn.small(drawn.picture(1), 50)]
    grey = np.frombuffer(b"".join(ours), np.uint8).reshape(-1, 32, 32)
    keys = similarity.unit(near_to(query.keys, cosine))
    rows = leakage.Rows(np.array([b"a" * 32, b"b" * 32]), keys, grey, np.ones(2, bool))
    found = Queries.load({"val": str(tmp_path / "val")}).matches(rows, rule)
    assert (found.pixels >= rule.pixels).all() and found.query.tolist() == [0, 1]
    assert found.is_copy.tolist() == [is_copy, True]
