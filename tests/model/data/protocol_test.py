"""Counts of a published protocol against what was embedded."""

import dataclasses
import json

import numpy as np
import pytest

from configs.base import Config, Protocol, Source, Train
from model.data import protocol
from pipelines import manifest
from pipelines.errors import UserError
from pipelines.manifest import Marker

_COUNTS = np.array([150, 101, 100, 50, 20, 20, 19, 2])
_ROWS = {"train": int(_COUNTS.sum()), "val": 16, "test": 24}
_PROTOCOL = Protocol(train_rows=462, val_rows=16, test_rows=24, classes=8, classes_per_group=(2, 4, 2))


@pytest.fixture
def config(tmp_path):
    """Two embedded shards a split; the marker of a shard that has gone from the source stays."""
    for split, rows in _ROWS.items():
        folder = str(tmp_path / f"queries/{split}")
        config_hash = manifest.claim(folder, "pipelines.embed", {})
        markers = [_marker(i, config_hash, n) for i, n in enumerate((rows - 6, 6, 1000))]
        for marker in markers:
            marker.write(folder)
        manifest.complete(folder, markers[:2], config_hash)
    sets = {f"{split}_set": Source(format="image_list", path=f"lists/{split}.txt") for split in _ROWS}
    return Config(data="/data", workdir=str(tmp_path), protocol=_PROTOCOL, train=Train(), **sets)


def _marker(number, config_hash, rows, rejected=0):
    kept = rows - rejected
    return Marker(number, f"x-{number}", "x", 1, "e", rows, kept, rejected, "s", config_hash, "r", 0.0)


def _lose(config, split, rejected):
    folder = config.places.queries(split)
    config_hash = json.load(open(f"{folder}/complete.json"))["config_hash"]
    _marker(1, config_hash, 6, rejected).write(folder)


def _check(config, counts):
    protocol.check(config.places, config.protocol, config.queries, config.train, counts)


def _refused(config, counts=_COUNTS):
    with pytest.raises(UserError) as caught:
        _check(config, counts)
    return str(caught.value)


def test_what_is_as_published_passes_and_nothing_is_lost(config):
    _check(config, _COUNTS)
    assert protocol.lost_rows(config.places) == {}


@pytest.mark.parametrize(
    ("split", "published", "words"),
    [
        ("train", 461, "/data/lists/train.txt: names 462 images, 1 more than the 461 of the protocol"),
        ("val", 7300, "/data/lists/val.txt: names 16 images, 7,284 fewer than the 7,300 of the protocol"),
        ("test", 25, "/data/lists/test.txt: names 24 images, 1 fewer than the 25 of the protocol"),
    ],
)
def test_a_wrong_list_is_named_with_what_to_do(config, split, published, words):
    changed = dataclasses.replace(_PROTOCOL, **{f"{split}_rows": published})
    sentence = _refused(dataclasses.replace(config, protocol=changed))
    assert sentence.startswith(words)
    assert f"or set --config.protocol.{split}_rows={_ROWS[split]} to use it as it is" in sentence


def test_the_list_that_train_and_val_are_parts_of_is_counted_whole(config):
    whole = dataclasses.replace(_PROTOCOL, train_val_rows=478)
    _check(dataclasses.replace(config, protocol=whole), _COUNTS)
    sentence = _refused(dataclasses.replace(config, protocol=dataclasses.replace(whole, train_val_rows=480)))
    assert sentence.startswith("/data/lists/train.txt: names 478 images, 2 fewer than the 480 of the protocol")
    assert "--config.protocol.train_val_rows=478" in sentence


def test_classes_of_other_sizes_are_refused(config):
    sized = dataclasses.replace(config, protocol=dataclasses.replace(_PROTOCOL, images_per_class=(2, 150)))
    _check(sized, _COUNTS)
    moved = np.array([149, 102, 100, 50, 20, 20, 18, 3])
    assert _refused(sized, moved).startswith(
        "/data/lists/train.txt: has 3/149 images in its smallest and largest class, the protocol 2/150"
    )
    # Of a list that lost rows, classes may be smaller.
    _lose(config, "train", 1)
    _check(sized, moved)


def test_images_that_could_not_be_read_are_no_wrong_list_but_are_told(config):
    _lose(config, "test", 2)
    _lose(config, "train", 3)
    # One of the classes lost its place in its group, one is gone: what is missing explains it.
    _check(config, np.array([150, 101, 100, 50, 20, 19, 19]))
    assert protocol.lost_rows(config.places) == {
        "train": f"3 of 462 images could not be used and do not count, see {config.places.queries('train')}/_rejects",
        "test": f"2 of 24 images could not be used and do not count, see {config.places.queries('test')}/_rejects",
    }


def test_more_classes_are_not_explained_by_lost_images(config):
    _lose(config, "train", 3)
    assert "has 9 classes, the protocol 8" in _refused(config, np.append(_COUNTS, 1))


def test_classes_and_groups_are_counted(config):
    sentence = _refused(config, _COUNTS[:7])
    assert sentence.startswith("/data/lists/train.txt: has 7 classes, the protocol 8; get the published list")
    sentence = _refused(config, np.array([150, 101, 101, 50, 20, 20, 19, 2]))
    assert (
        "has 3/3/2 many-, medium- and few-shot classes by --config.train.shots=decoupling, the protocol 2/4/2"
        in sentence
    )


def test_the_other_convention_counts_the_bounds_to_the_outer_groups(config):
    oltr = dataclasses.replace(config, train=Train(shots="oltr"))
    sentence = _refused(oltr)
    assert "has 3/1/4 many-" in sentence and "these are its groups by --config.train.shots=decoupling" in sentence
    assert "set --config.protocol.classes_per_group=3,1,4 for those of oltr" in sentence
    _check(dataclasses.replace(oltr, protocol=dataclasses.replace(_PROTOCOL, classes_per_group=(3, 1, 4))), _COUNTS)


def test_a_config_without_a_protocol_checks_nothing(config):
    _check(dataclasses.replace(config, protocol=Protocol()), np.array([1]))
