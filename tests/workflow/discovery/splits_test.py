"""Names of splits, shares of classes, and groups by size, against answers counted by hand."""

import numpy as np
import pytest

from workflow.discovery import splits


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ImageNet_LT_train.txt", ("train", True)),
        ("TinyImageNet_LT_train_noisy40.txt", ("train", False)),
        ("instances_val2017.json", ("val", True)),
        ("train-00000-of-00002.parquet", ("train", False)),
        ("contest.csv", ("", False)),
        ("trainval.csv", ("train", True)),
        ("train_val.csv", ("train", True)),
        ("trainers.csv", ("", False)),
        ("TestImages.txt", ("test", False)),
        ("ISIC2019Train.csv", ("train", True)),
    ],
)
def test_of_file(name, expected):
    assert splits.of_file(name) == expected


def test_of_folder():
    names = {"Validation": "val", "testing": "test", "TRAIN": "train", "train2017": "train", "test_set": "test"}
    names |= {"images_val": "val", "train 2012": "train", "val-data": "val"}
    names |= dict.fromkeys(("trains", "train station", "train_test", "images", "2017", "steam_train"), "")
    assert {name: splits.of_folder(name) for name in names} == names


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("train", "val", "cars_test"), {"train": "train", "val": "val"}),
        (("seg_pred", "seg_test", "seg_train"), {"seg_test": "test", "seg_train": "train"}),
        (("cars_train", "dogs_test"), {}),
        (("steam train", "bus", "test tube"), {}),
        (("bus", "train"), {"train": "train"}),
    ],
)
def test_of_folders(names, expected):
    assert splits.of_folders(names) == expected


def test_ten_images_are_cut_into_eight_one_and_one():
    cut = splits.cut([10, 10, 10], ("val", "test"))
    assert cut.parts == {"train": (0.2, 1.0), "val": (0.0, 0.1), "test": (0.1, 0.2)} and cut.untested == 0


def test_one_missing_split_is_cut_alone():
    assert splits.cut([10], ("val",)).parts == {"train": (0.1, 1.0), "val": (0.0, 0.1)}


def test_classes_of_five_take_a_larger_share():
    cut = splits.cut([5] * 20, ("val", "test"))
    assert cut.parts["val"] == (0.0, 0.15) and cut.whole == 20


def test_no_class_loses_its_last_training_image():
    for seed in range(50):
        sizes = np.random.default_rng(seed).integers(1, 8, 20)
        cut = splits.cut(sizes.tolist(), ("val", "test"))
        for size in sizes:
            assert splits.rows_of(size, cut.parts["train"]) >= 1
            assert sum(splits.rows_of(size, part) for part in cut.parts.values()) == size
