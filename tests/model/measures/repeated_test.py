"""Images that two splits share, in splits whose images are known."""

import dataclasses

from configs.base import Config
from model.measures import repeated
from tests import world


def _warnings(tmp_path, **images: list[str]) -> list[str]:
    for split, names in images.items():
        world.write_embeddings(f"{tmp_path}/queries/{split}", world.unit(len(names)), world.digests(names), shards=2)
    return repeated.warnings(dataclasses.replace(Config(), workdir=str(tmp_path)).places)


def test_images_of_test_and_val_that_others_have_are_counted(tmp_path):
    train = [f"train {i}" for i in range(30)]
    # The same picture twice in train is one image of test; the same twice in test is two.
    test = ["train 0", "train 0", "train 7", "val 1", *(f"test {i}" for i in range(1996))]
    val = ["val 0", "val 1", "val 2", "train 3"]
    assert _warnings(tmp_path, train=[*train, "train 7"], val=val, test=test) == [
        "3 of the 2,000 test images (0.1%) are also in train, byte for byte; remove them from train",
        "1 of the 2,000 test images (0.1%) is also in val, byte for byte; remove it from val",
        "1 of the 4 val images (25.0%) is also in train, byte for byte; remove it from train",
    ]


def test_splits_apart_are_not_warned_of(tmp_path):
    # What is twice in one split is in no other.
    assert _warnings(tmp_path, train=["a", "a", "b"], val=["c", "c"], test=["d", "e"]) == []
