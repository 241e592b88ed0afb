"""Lists of paths and labels, in each style in which Places365 is published."""

import dataclasses
import gzip
import lzma

import pytest

from configs.base import Source
from pipelines import storage
from pipelines.errors import UserError
from pipelines.sources import Sample
from tests.pipelines.sources.listed import image, plan, read, write_images

_SOURCE = Source(format="image_list", path="list.txt", image_root="images")

# The same four images as three lists name them, and as the folders of five downloads hold them.
_EASY = [
    "train/airfield/00000001.jpg",
    "train/apartment_building-outdoor/00000001.jpg",
    "val/airfield/Places365_val_00000435.jpg",
    "val/field-cultivated/Places365_val_00032701.jpg",
]
_PLAIN = [
    "data_256/a/airfield/00000001.jpg",
    "data_256/a/apartment_building/outdoor/00000001.jpg",
    "val_256/Places365_val_00000435.jpg",
    "val_256/Places365_val_00032701.jpg",
]
_STANDARD = [f"places365_standard/{path}" for path in _EASY]
_OWN = [path.removeprefix("data_256").removeprefix("val_256/") for path in _PLAIN]
_TORCHVISION = [path.replace("data_256", "data_256_standard") for path in _PLAIN]
_LARGE = [path.replace("_256", "_large") for path in _PLAIN]


@pytest.mark.parametrize("listed", [_EASY, _PLAIN, _STANDARD, _OWN])
@pytest.mark.parametrize("stored", [_EASY, _PLAIN, _STANDARD, _TORCHVISION, _LARGE])
def test_a_list_of_one_style_reads_images_of_another(tmp_path, listed, stored):
    images = write_images(tmp_path / "images", *stored)
    (tmp_path / "list.txt").write_text("".join(f"{name} {label}\n" for label, name in enumerate(listed)))
    assert read(tmp_path, _SOURCE) == [Sample(name, images[name], label=label) for label, name in enumerate(stored)]


@pytest.mark.parametrize("stored", [_EASY, _PLAIN])
@pytest.mark.parametrize("part", [slice(0, 2), slice(2, 4)])
def test_a_list_of_one_split_too(tmp_path, stored, part):
    write_images(tmp_path / "images", *stored)
    for listed in (_EASY, _PLAIN, _OWN):
        (tmp_path / "list.txt").write_text("".join(f"{name} 0\n" for name in listed[part]))
        assert [item.member for item in read(tmp_path, _SOURCE)] == stored[part]


def test_a_folder_of_the_plain_download_itself_may_be_the_root(tmp_path):
    write_images(tmp_path / "images", "a/airfield/1.jpg")
    (tmp_path / "list.txt").write_text("train/airfield/1.jpg 0\n")
    assert [item.member for item in read(tmp_path, _SOURCE)] == ["a/airfield/1.jpg"]


def test_one_image_that_is_there_is_enough_and_the_others_are_missed(tmp_path):
    write_images(tmp_path / "images", "train/airfield/3.jpg")
    (tmp_path / "list.txt").write_text("".join(f"data_256/a/airfield/{i}.jpg 0\n" for i in range(25)))
    found = read(tmp_path, _SOURCE)
    assert [item.member for item in found] == [f"train/airfield/{i}.jpg" for i in range(25)]
    assert [i for i, item in enumerate(found) if isinstance(item, Sample)] == [3]


def test_places_of_no_style_are_an_error(tmp_path):
    write_images(tmp_path / "images", "other/airfield/1.jpg")
    (tmp_path / "list.txt").write_text("train/airfield/1.jpg 0\n")
    with pytest.raises(
        UserError, match="list.txt: none of its first 1 images is below .*images, nor in a layout of Pl"
    ):
        plan(tmp_path, _SOURCE)


def test_imagenet_lt_is_taken_as_it_is(tmp_path):
    images = write_images(tmp_path / "images", "train/n01440764/n01440764_18.JPEG", "val/ILSVRC2012_val_00000293.JPEG")
    (tmp_path / "list.txt").write_text("".join(f"{name} 0\n" for name in [*images, "train/n01440764/gone.JPEG"]))
    found = read(tmp_path, _SOURCE)
    assert [item.member for item in found[:2]] == list(images) and found[2].error_type == "MissingImage"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a.jpg 0\nb.jpg\n", "line 2: must be `relative/path label`, found 'b.jpg'"),
        ("\na.jpg 0\n\n0\n", "line 4: must be `relative/path label`, found '0'"),
        ("a.jpg, 0, 0\n", "line 1: must be `relative/path label`, found 'a.jpg, 0, 0'"),
        ("a.jpg 0\na.jpg 0 0\n", "line 2"),
        ("a.jpg, 0\n", "line 1"),
        ("a.jpg,0\n", "line 1"),
        ("a.jpg,0 1\n", "line 1"),
        ("x, 1\n", "line 1"),
        ("a.jpg 0\rb.jpg 1\r", "line 1: has a carriage return in it"),
        ("a.jpg -1\n", "line 1"),
        ("a.jpg 2147483648\n", "line 1"),
        ("a.jpg ²\n", "line 1"),
        ("a.jpg " + "9" * 5000, "line 1"),
        ("a.jpg 0\t0\n", "line 1"),
        ("\t0\n", "line 1"),
        (" 0\n", "line 1"),
    ],
)
def test_a_wrong_list_names_file_and_line(tmp_path, text, sentence):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(UserError, match=f"list.txt, {sentence}"):
        plan(tmp_path, _SOURCE)


def test_a_label_may_be_a_name_after_a_path_that_ends_as_an_image(tmp_path):
    images = write_images(tmp_path / "images", "a/my photo.jpg", "b.JPEG", "c.png")
    (tmp_path / "list.txt").write_text("a/my photo.jpg golden retriever\nb.JPEG\tcat\nc.png golden retriever\n")
    assert {item.member: item.label for item in read(tmp_path, _SOURCE)} == dict(zip(images, [1, 0, 1], strict=True))


@pytest.mark.parametrize("end", ["", ".jpg"])
@pytest.mark.parametrize("top", ["", "photos/", "./"])
def test_paths_alone_are_of_the_class_of_their_folder(tmp_path, end, top):
    names = ["b x/1.jpg", "a/2.jpg", "a/my photo.jpg"] if end else ["b/1.jpg", "a/2.jpg", "a/3.jpg"]
    images = write_images(tmp_path / "images", *(f"{top}{name}" for name in names))
    (tmp_path / "list.txt").write_text("".join(f"{top}{name.removesuffix('.jpg')}{end}\n" for name in names))
    found = {item.member: (item.label, item.image) for item in read(tmp_path, _SOURCE)}
    wanted = zip(images.items(), [1, 0, 0], strict=True)
    assert found == {member.removeprefix("./"): (label, image) for (member, image), label in wanted}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a/1.jpg\nb/2.jpg 0\n", "line 2: must be a path in the folder of its class, as before"),
        ("a/1.jpg 0\nb/2.jpg\n", "line 2: must be `relative/path label`"),
        ("a/1.jpg\n2.jpg\n", "line 2: must be a path in the folder of its class, as before"),
        ("a/b/1.jpg\nc/2.jpg\n", "line 2: 'c/2.jpg' has no label, and the folders"),
        ("b/bakery/shop/1.jpg\ng/gift/shop/2.jpg\n", "line 2: 'g/gift/shop/2.jpg' has no label, and the folders"),
        ("a/1.jpg,0\n", "line 1: must be `relative/path label`"),
        ("http://a/1.jpg\n", "line 1: must be `relative/path label`"),
    ],
)
def test_folders_that_do_not_say_the_class_are_refused(tmp_path, text, line):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(UserError, match=f"list.txt, {line}"):
        plan(tmp_path, _SOURCE)


def test_a_path_without_a_suffix_that_two_images_have_is_missed(tmp_path):
    write_images(tmp_path / "images", "a/1.jpg", "a/1.png")
    (tmp_path / "list.txt").write_text("a/1\n")
    assert [item.error_type for item in read(tmp_path, _SOURCE)] == ["MissingImage"]


def _members(tmp_path, data, **changes):
    (tmp_path / "list.txt").write_bytes(data)
    return [
        (item.member, getattr(item, "label", None)) for item in read(tmp_path, dataclasses.replace(_SOURCE, **changes))
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"cat\\0.png 0\r\ncat\\sub\\1.png 1\r\n",
        b"\xef\xbb\xbfcat/0.png 0\r\n\r\ncat/sub/1.png 1\r\n\r\n",
        b"cat/0.png 0 \n  \t\ncat/sub/1.png 1\t\n\n\n",
        b"cat/0.png\t0\ncat/sub/1.png  1\n",
        b"./cat/0.png 0\n.//cat/sub/1.png 1",
        b".\\cat\\0.png 0\ncat/sub\\1.png 1",
    ],
)
def test_lists_of_other_systems_are_read(tmp_path, data):
    write_images(tmp_path / "images", "cat/0.png", "cat/sub/1.png")
    assert _members(tmp_path, data) == [("cat/0.png", 0), ("cat/sub/1.png", 1)]
    packed = [(".gz", gzip.compress(data)), ("", gzip.compress(data)), ("", lzma.compress(data))]
    for suffix, whole in packed:
        (tmp_path / f"packed{suffix}").write_bytes(whole)
        found = read(tmp_path, dataclasses.replace(_SOURCE, path=f"packed{suffix}"))
        assert [item.label for item in found] == [0, 1]


def test_a_path_may_have_spaces_dots_and_numbers(tmp_path):
    names = ["a b.png", "photo 2.png", "my.png copy 3.png", "v1.0, final.jpg", "3 4", "x::y.jpg", "a.jfif"]
    names += ["caf\u00e9 \u2028.png", "a[1]{b}.png", "100%.png", "#?.png"]
    write_images(tmp_path / "images", *names)
    data = "".join(f"{name} {label}\n" for label, name in enumerate(names)).encode()
    assert _members(tmp_path, data) == [(name, label) for label, name in enumerate(names)]


def test_absolute_paths_below_the_root_are_taken(tmp_path):
    images = write_images(tmp_path / "real/images", "cat/0.png", "1.png")
    write_images(tmp_path / "real/images-too", "x.png")
    (tmp_path / "images").symlink_to(tmp_path / "real/images")
    tops = [f"{tmp_path}/images", f"{tmp_path}/real/images"]
    for top in tops:
        data = "".join(f"{top}/{name} {label}\n" for label, name in enumerate(images)).encode()
        assert _members(tmp_path, data) == [("cat/0.png", 0), ("1.png", 1)]
        assert _members(tmp_path, data.replace(b"/", b"\\")) == [("cat/0.png", 0), ("1.png", 1)]
    outside = [f"{tmp_path}/real/images-too/x.png", f"{tmp_path}/images/../real/images-too/x.png", "/etc/passwd"]
    outside += ["../images/cat/0.png", "..\\images\\cat\\0.png", "cat/../1.png", f"{tmp_path}/images"]
    (tmp_path / "list.txt").write_text("".join(f"{name} 0\n" for name in outside))
    found = read(tmp_path, _SOURCE)
    assert [getattr(item, "error_type", item) for item in found] == ["PathOutsideRoot"] * 7


def test_absolute_paths_of_a_store_are_taken():
    for name in ("0.png", "d/1.png"):
        with storage.atomic_write(f"memory://pictures/{name}") as file:
            file.write(image(0))
    for path, where in (("a", "memory://pictures"), ("b", "memory://pictures/")):
        with storage.atomic_write(f"memory://lists/{path}") as file:
            file.write(b"memory://pictures/0.png 0\nd\\1.png 1\nmemory://other/0.png 1\n./0.png 2\n")
        source = dataclasses.replace(_SOURCE, path=path, image_root=where)
        found = read("memory://lists", source)
        assert [item.member for item in found] == ["0.png", "d/1.png", "memory://other/0.png", "0.png"]
        assert [isinstance(item, Sample) for item in found] == [True, True, False, True]
