"""The lists of WebVision 1.0."""

import dataclasses

import pytest

from configs.base import Source
from pipelines.errors import UserError
from pipelines.sources import Sample
from tests.pipelines.sources.listed import plan, read, write_images

_TRAIN = Source(format="webvision", path="info/train_filelist_{google,flickr}.txt", metadata="info/synsets.txt")
_VAL = Source(format="webvision", path="info/val_filelist.txt")


@pytest.fixture
def world(tmp_path):
    images = write_images(
        tmp_path, "flickr/q0001/2680197397.jpg", "google/q0001/x_y.jpg", "google/q0002/z.jpg", "val_images_256/val0.jpg"
    )
    (tmp_path / "info").mkdir()
    (tmp_path / "info/train_filelist_flickr.txt").write_text("flickr/q0001/2680197397.jpg 0\n")
    (tmp_path / "info/train_filelist_google.txt").write_text("google/q0001/x_y.jpg 0\ngoogle/q0002/z.jpg 1\n")
    (tmp_path / "info/val_filelist.txt").write_text("val0.jpg 1\n")
    (tmp_path / "info/synsets.txt").write_text("n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\n")
    return tmp_path, images


def test_training_lists_with_synsets(world):
    root, images = world
    assert [(shard.name, shard.rows) for shard in plan(root, _TRAIN)] == [
        ("train_filelist_google_flickr-00000", 2),
        ("train_filelist_google_flickr-00001", 1),
    ]
    tench, goldfish = "tench, Tinca tinca", "goldfish, Carassius auratus"
    names = list(images)
    assert read(root, _TRAIN) == [
        Sample(names[0], images[names[0]], tench, 0, metadata={"synset": "n01440764"}),
        Sample(names[1], images[names[1]], tench, 0, metadata={"synset": "n01440764"}),
        Sample(names[2], images[names[2]], goldfish, 1, metadata={"synset": "n01443537"}),
    ]


@pytest.mark.parametrize(("image_root", "member"), [("", "val_images_256/val0.jpg"), ("val_images_256", "val0.jpg")])
def test_the_validation_list_is_of_its_own_folder(world, image_root, member):
    root, images = world
    found = read(root, dataclasses.replace(_VAL, image_root=image_root))
    assert found == [Sample(member, images["val_images_256/val0.jpg"], label=1)]


def test_what_is_wrong_is_named(world):
    root, _ = world
    (root / "info/train_filelist_google.txt").write_text("google/q0001/x_y.jpg 0\ngoogle/q0002/z.jpg 2\n")
    with pytest.raises(UserError, match="google.txt, line 2: has label 2, but .*synsets.txt names 2 classes"):
        plan(root, _TRAIN)
    with pytest.raises(UserError, match="train_filelist_bing.txt: no such file"):
        plan(root, dataclasses.replace(_TRAIN, path="info/train_filelist_{google,bing}.txt"))
    (root / "info/synsets.txt").write_text("n01440764 tench\nn01443537\n")
    with pytest.raises(UserError, match="synsets.txt, line 2: must be `synset names`, found 'n01443537'"):
        plan(root, _TRAIN)
