"""Folders of images, as torchvision's ImageFolder numbers their classes."""

import dataclasses
import os
import shutil

import pytest

from configs.base import Embed, Source
from pipelines import sources, storage
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


def test_texts_beside_images_are_their_captions(tmp_path):
    write_images(tmp_path / "photos", "a/0.jpg", "a/1.png", "b/2.jpg", "3.jpg")
    texts = {"a/0": " a red dog\n", "b/2": "\ufeffzwei H\u00fcte", "3": "of no class", "a/9": "alone"}
    for name, text in texts.items():
        (tmp_path / f"photos/{name}.txt").write_text(text, encoding="utf-8")
    source = dataclasses.replace(_SOURCE, fields=("caption=txt",))
    found = [(item.member, item.caption, item.label) for item in read(tmp_path, source)]
    assert found == [
        ("3.jpg", "of no class", None),
        ("a/0.jpg", "a red dog", 0),
        ("a/1.png", None, 0),
        ("b/2.jpg", "zwei H\u00fcte", 1),
    ]
    assert not sources.passed_over(source, str(tmp_path))
    assert sources.passed_over(_SOURCE, str(tmp_path)) == {".txt": 4}


def test_a_text_beside_an_image_that_cannot_be_used_is_a_reject(tmp_path):
    write_images(tmp_path / "photos", "a/0.jpg", "a/1.jpg", "a/2.jpg")
    (tmp_path / "photos/a/0.txt").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "photos/a/1.txt").write_bytes(b"x" * ((1 << 20) + 1))
    source = dataclasses.replace(_SOURCE, fields=("caption=txt",))
    first, second, third = read(tmp_path, source)
    assert isinstance(first, Reject) and "0.txt" in first.message and "utf-8" in first.message
    assert isinstance(second, Reject) and "1.txt: is larger than 1,048,576 bytes" in second.message
    assert isinstance(third, Sample) and third.caption is None
    with pytest.raises(UserError, match="no image has a .cap beside it, as fields=caption=cap asks"):
        read(tmp_path, dataclasses.replace(_SOURCE, fields=("caption=cap",)))


def _naming(tmp_path, **changes):
    found = sources.find_names(dataclasses.replace(_SOURCE, **changes), str(tmp_path), Embed())
    assert found is not None
    return found


def test_a_class_without_images_has_no_number_and_is_named(tmp_path):
    write_images(tmp_path / "photos", "a/0.jpg", "c/1.jpg")
    (tmp_path / "photos" / "b").mkdir()
    assert [item.label for item in read(tmp_path, _SOURCE)] == [0, 1]
    assert _naming(tmp_path).notes == ("1 class folder without an image, and so without a number: b",)


def test_system_folders_are_passed_over_and_counted_at_every_level(tmp_path):
    stray = ["@eaDir", "__MACOSX", ".thumbnails", "$RECYCLE.BIN", "lost+found", ".ipynb_checkpoints", "@EADIR"]
    write_images(tmp_path / "photos", "ant/0.jpg", "bee/1.jpg", *(f"{name}/2.jpg" for name in stray))
    write_images(tmp_path / "photos", "ant/@eaDir/0.jpg", "ant/deep/.thumbnails/0.jpg")
    assert [(item.member, item.label) for item in read(tmp_path, _SOURCE)] == [("ant/0.jpg", 0), ("bee/1.jpg", 1)]
    found = _naming(tmp_path)
    assert dict(found.passed_over) == {**dict.fromkeys(stray, 1), "@eaDir": 2, ".thumbnails": 2}
    assert (found.names, found.notes) == (("ant", "bee"), ())


def test_names_are_numbered_in_normal_form_c(tmp_path):
    # Decomposed, "é" is "e" and an accent, which sorts before "z".
    write_images(tmp_path / "photos", "cafe\u0301/0.jpg", "cafz/1.jpg", "caf\u00e9/2.jpg")
    assert {item.member: item.label for item in read(tmp_path, _SOURCE)} == {
        "cafe\u0301/0.jpg": 1,
        "cafz/1.jpg": 0,
        "caf\u00e9/2.jpg": 1,
    }


def test_nested_folders_are_pointed_out_and_their_level_can_be_chosen(tmp_path):
    names = ["Fruit/Apple/Golden/0.jpg", "Fruit/Apple/Red/1.jpg", "Fruit/Banana/2.jpg", "Milk/3.jpg"]
    write_images(tmp_path / "photos", *names)

    def labels(level):
        source = dataclasses.replace(_SOURCE, class_level=level)
        return [(item.label, item.caption) for item in read(tmp_path, source)]

    assert labels(1) == [(0, "Fruit"), (0, "Fruit"), (0, "Fruit"), (1, "Milk")]
    (note,) = _naming(tmp_path).notes
    assert "the classes are the folders of the first level, but 1 of these have no images of their own" in note
    assert "such as Fruit/Apple/Golden; if those are the classes, set class_level to" in note
    # The remedies that the note names.
    assert labels(0) == [(0, "Fruit/Apple/Golden"), (1, "Fruit/Apple/Red"), (2, "Fruit/Banana"), (3, "Milk")]
    with pytest.raises(UserError, match="photos: Milk has images, but class_level=2 takes .* with class_level=0"):
        labels(2)
    shutil.rmtree(tmp_path / "photos" / "Milk")
    assert labels(2) == [(0, "Fruit/Apple"), (0, "Fruit/Apple"), (1, "Fruit/Banana")]
    assert _naming(tmp_path, class_level=2).notes == ()


def test_one_folder_below_each_class_is_no_other_level(tmp_path):
    # As Tiny ImageNet has it.
    write_images(tmp_path / "photos", "n01/images/0.jpg", "n02/images/1.jpg")
    assert _naming(tmp_path).notes == ()


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
