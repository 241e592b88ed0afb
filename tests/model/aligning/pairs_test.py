import dataclasses

import numpy as np
import pytest

from configs.base import Align
from model.aligning import pairs
from pipelines.errors import UserError
from pipelines.manifest import Embeddings
from tests.world import digests, unit, write_embeddings

ALIGN = Align(val=10, held_out=20)


def _memory(folder, images, shards=3):
    write_embeddings(str(folder), unit(len(images)), images, shards=shards)
    return Embeddings(str(folder))


def _keys(parts):
    return [set(getattr(parts, name).content_keys.tolist()) for name in ("train", "val", "held_out")]


def test_every_image_is_in_one_part_with_its_own_vectors(tmp_path):
    images = digests([f"image {i % 90}" for i in range(100)])
    parts = pairs.read(_memory(tmp_path / "memory", images), ALIGN, 0)
    train, val, held_out = _keys(parts)
    assert (len(train), len(val), len(held_out)) == (60, 10, 20)
    assert train | val | held_out == set(images) and not (train & val or train & held_out or val & held_out)
    for part in (parts.train, parts.val, parts.held_out):
        rows = [images.index(key) for key in part.content_keys.tolist()]
        np.testing.assert_array_equal(part.images, unit(100)[rows])
        np.testing.assert_array_equal(part.texts, np.repeat(rows, 3).reshape(-1, 3))
        assert len(set(part.captions.tolist())) == len(part)


def test_the_parts_do_not_depend_on_shards_and_do_on_the_seed(tmp_path):
    images = digests([f"image {i}" for i in range(80)])
    memories = [_memory(tmp_path / str(shards), images, shards) for shards in (2, 5)]
    one, other = (pairs.read(memory, ALIGN, 0) for memory in memories)
    assert one.train.content_keys.tolist() == other.train.content_keys.tolist()
    assert _keys(one)[2] != _keys(pairs.read(memories[0], ALIGN, 1))[2]


def test_a_cap_keeps_the_first_of_the_same_order(tmp_path):
    memory = _memory(tmp_path / "memory", digests([f"image {i}" for i in range(80)]))
    whole = pairs.read(memory, ALIGN, 0)
    cut = pairs.read(memory, dataclasses.replace(ALIGN, most_pairs=50), 0)
    assert cut.held_out.content_keys.tolist() == whole.held_out.content_keys.tolist()
    assert cut.train.content_keys.tolist() == whole.train.content_keys.tolist()[:20]


def test_too_few_pairs_are_refused(tmp_path):
    memory = _memory(tmp_path / "memory", digests([f"image {i}" for i in range(31)]))
    with pytest.raises(UserError, match=r"held_out=20: .* has 31 different images with a text, and .* take 30; lower"):
        pairs.read(memory, ALIGN, 0)
