"""Folders of images, as torchvision's ImageFolder numbers their classes."""

import dataclasses
import os

import pytest

from configs.base import Source
from pipelines import storage
from pipelines.errors import UserError
from pipelines.sources import Reject, Sample
from tests.pipelines.sources.listed import image, plan, read, write_images

_SOURCE = Source(format="image_folder", path="photos")


def test_each_folder_is_a_class_and_its_name_the_caption(tmp_path):
    names = ["Zebra/1.jpg", "ant/0.JPEG", "ant/deep/er/2.png", "ant/z.webp", "bee/3.tiff"]
    images = write_images(tmp_path / "photos", *names)
    write_images(tmp_path / "photos", "ant/.hidden.jpg", "ant/.git/x.jpg", ".cache/x.jpg", "bee/notes.txt", "bee/jpg")
    shards = plan(tmp_path, _SOURCE)
    assert [(shard.name, shard.rows) for shard in shards] == [
        ("photos-00000", 2),
        ("photos-00001", 2),
        ("photos-00002", 1),
    ]
    # The order of names in which torchvision numbers classes has capitals first.
    labels = {"Zebra": 0, "ant": 1, "bee": 2}
    assert read(tmp_path, _SOURCE) == [
        Sample(name, images[name], scene, labels[scene], metadata={"class": scene})
        for name in names
        for scene in [name.split("/")[0]]
    ]


def test_a_class_without_images_keeps_its_number(tmp_path):
    write_images(tmp_path / "photos", "c/1.jpg")
    (tmp_path / "photos" / "b").mkdir()
    assert [item.label for item in read(tmp_path, _SOURCE)] == [1]


def test_a_flat_folder_has_no_labels(tmp_path):
    images = write_images(tmp_path / "photos", "0.jpg", "1.png")
    assert read(tmp_path, _SOURCE) == [Sample(name, images[name]) for name in images]
    (found,) = [
        item for item in read(tmp_path / "photos", dataclasses.replace(_SOURCE, path=".")) if item.member == "0.jpg"
    ]
    assert found.image == images["0.jpg"]


def test_class_names_take_the_place_of_the_caption(tmp_path):
    write_images(tmp_path / "photos", "n01/0.jpg", "n02/1.jpg")
    (tmp_path / "names.txt").write_text("tench\ngoldfish\n")
    found = read(tmp_path, dataclasses.replace(_SOURCE, class_names="names.txt"))
    assert [(item.caption, item.metadata) for item in found] == [
        ("tench", {"class": "n01"}),
        ("goldfish", {"class": "n02"}),
    ]


def test_linked_folders_are_seen_but_not_entered(tmp_path):
    write_images(tmp_path, "photos/a/0.jpg", "photos/c/1.jpg", "elsewhere/2.jpg")
    os.symlink(tmp_path / "elsewhere", tmp_path / "photos" / "b")
    os.symlink(tmp_path / "photos", tmp_path / "photos" / "c" / "again")
    found = {item.member: item for item in read(tmp_path, _SOURCE)}
    assert list(found) == ["a/0.jpg", "b", "c/1.jpg", "c/again"]
    assert (found["b"].error_type, found["c/again"].error_type) == ("PathOutsideRoot", "PathOutsideRoot")
    assert found["c/1.jpg"].label == 2


def test_a_folder_of_a_store(tmp_path):
    root = f"memory://{tmp_path.name}"
    for seed, name in enumerate(["b/0.jpg", "a/1.jpg", "a/x.txt"]):
        with storage.atomic_write(f"{root}/photos/{name}") as file:
            file.write(image(seed))
    assert [(item.member, item.label, item.image) for item in read(root, _SOURCE)] == [
        ("a/1.jpg", 0, image(1)),
        ("b/0.jpg", 1, image(0)),
    ]


def test_a_folder_without_images_is_an_error(tmp_path):
    with pytest.raises(UserError, match="photos: is empty, it names no image"):
        plan(tmp_path, _SOURCE)


def test_a_name_that_is_no_text_is_a_reject(tmp_path):
    images = write_images(tmp_path / "photos", "a.jpg")
    with open(os.fsencode(tmp_path / "photos") + b"/\xff.jpg", "wb") as file:
        file.write(image(0))
    assert read(tmp_path, _SOURCE) == [
        Sample("a.jpg", images["a.jpg"]),
        Reject("\\udcff.jpg", "read", "BadValue", "the name is not UTF-8 text; rename the file"),
    ]
