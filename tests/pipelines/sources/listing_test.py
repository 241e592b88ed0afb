"""How lists are cut into shards, when these are taken for changed, and what is not read."""

import dataclasses
import os
import zipfile

import fsspec
import pyarrow.parquet as pq
import pytest

from configs.base import Source
from pipelines import sources, storage
from pipelines.errors import UserError
from pipelines.sources import Reject, Sample, listing
from pipelines.sources.listing import Row
from tests.pipelines.sources.listed import EMBED, image, plan, read, write_images

_SOURCE = Source(format="image_list", path="Set_train.txt", image_root="images")


def _list(root, text):
    (root / "images").mkdir(exist_ok=True)
    (root / "Set_train.txt").write_text(text)
    return _SOURCE


def test_lists_are_cut_into_shards_and_keep_their_order(tmp_path):
    images = write_images(tmp_path / "images", "0.jpg", "a b/1.jpg", "2.jpg")
    shards = plan(tmp_path, _list(tmp_path, "0.jpg 5\na b/1.jpg 0\n2.jpg 12\n"))
    assert [(s.name, s.rows, s.container) for s in shards] == [
        ("Set_train-00000", 2, f"{tmp_path}/images"),
        ("Set_train-00001", 1, f"{tmp_path}/images"),
    ]
    found = [item for shard in shards for item in sources.read(shard, EMBED)]
    assert found == [Sample(name, images[name], label=label) for name, label in zip(images, (5, 0, 12), strict=True)]
    assert pq.read_table(shards[1].listing)["member"].to_pylist() == ["2.jpg"]


def test_labels_count_from_the_first_of_the_source(tmp_path):
    images = write_images(tmp_path / "images", "0.jpg", "1.jpg", "2.jpg", "3.jpg")
    source = dataclasses.replace(_list(tmp_path, "0.jpg 4\n1.jpg 3\n2.jpg 5\n3.jpg 2\n"), first_label=3)
    found = [item for shard in plan(tmp_path, source) for item in sources.read(shard, EMBED)]
    assert found[:3] == [Sample(f"{n}.jpg", images[f"{n}.jpg"], label=label) for n, label in enumerate((1, 0, 2))]
    assert found[3].message == "label is 2, the source's 'first_label' is 3"
    with pytest.raises(UserError, match="its classes have names; leave 'first_label' at 0"):
        plan(tmp_path, dataclasses.replace(_list(tmp_path, "0.jpg cat\n1.jpg dog\n"), first_label=1))


def test_many_shards_keep_their_order_and_are_not_held_at_once(tmp_path):
    taken, most = 0, 0

    def rows():
        nonlocal taken, most
        for number in range(200):
            taken += 1
            most = max(most, taken - 2 * len(list((tmp_path / "listings").glob("*.parquet"))))
            yield Row(f"{number}.jpg", {"label": number})

    source = dataclasses.replace(_SOURCE, image_root=str(tmp_path))
    shards = listing.plan(source, rows(), f"{tmp_path}/listings", EMBED)
    assert [shard.name for shard in shards] == [f"Set_train-{number:05d}" for number in range(100)]
    members = [member for shard in shards for member in pq.read_table(shard.listing)["member"].to_pylist()]
    assert members == [f"{number}.jpg" for number in range(200)]
    assert most < 30


@pytest.mark.parametrize(
    ("path", "stem"),
    [
        ("a/x_train.txt.gz", "x_train"),
        ("info/train_{google,flickr}.txt", "train_google_flickr"),
        ("a/x.txt,b/y.txt", "x_y"),
        ("*.csv", "image_list"),
        ("../odd name'.txt", "odd_name"),
    ],
)
def test_shards_are_named_after_their_lists(path, stem):
    assert listing.stem(Source(format="image_list", path=path)) == stem


def test_several_lists_below_the_data_folder_are_one_source(tmp_path):
    write_images(tmp_path / "images", "0.jpg", "1.jpg")
    (tmp_path / "a.txt").write_text("0.jpg 0\n")
    (tmp_path / "b.txt").write_text("1.jpg 1\n")
    for path in ("a.txt, b.txt", "{a,b}.txt", "*.txt"):
        found = read(tmp_path, dataclasses.replace(_SOURCE, path=path))
        assert [item.member for item in found] == ["0.jpg", "1.jpg"]


def test_an_etag_changes_with_rows_and_images_and_nothing_else(tmp_path):
    write_images(tmp_path / "images", "0.jpg", "1.jpg", "2.jpg", "3.jpg")
    text = "".join(f"{i}.jpg {i}\n" for i in range(4))

    def etags(text=text, **changes):
        shards = plan(tmp_path, dataclasses.replace(_list(tmp_path, text), **changes))
        return [(shard.etag, shard.listing) for shard in shards]

    first = etags()
    assert etags() == first
    assert [a == b for a, b in zip(etags(text.replace("3.jpg 3", "3.jpg 7")), first, strict=True)] == [True, False]
    os.utime(tmp_path / "images/0.jpg", ns=(1, 1))
    assert [a == b for a, b in zip(etags(), first, strict=True)] == [False, True]
    # The same times and sizes, but of another image: one of two twins is missing.
    for name in ("2.jpg", "3.jpg"):
        (tmp_path / "images" / name).write_bytes(image(5))
        os.utime(tmp_path / "images" / name, ns=(1, 1))
    whole = etags()
    (tmp_path / "images/2.jpg").unlink()
    without_two = etags()
    (tmp_path / "images/3.jpg").rename(tmp_path / "images/2.jpg")
    assert len({whole[1], without_two[1], etags()[1]}) == 3


def test_an_etag_changes_with_class_names_and_zips(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("0.jpg", image(0))
    (tmp_path / "names.txt").write_text("cat\n")
    (tmp_path / "Set_train.txt").write_text("x.zip/0.jpg 0\n")
    source = dataclasses.replace(_SOURCE, image_root="", class_names="names.txt")
    first = plan(tmp_path, source)
    (tmp_path / "names.txt").write_text("dog\n")
    second = plan(tmp_path, source)
    os.utime(tmp_path / "x.zip", ns=(1, 1))
    third = plan(tmp_path, source)
    assert len({first[0].etag, second[0].etag, third[0].etag}) == 3


def test_rows_that_cannot_be_read_become_rejects(tmp_path):
    write_images(tmp_path, "secret.jpg")
    (tmp_path / "images" / "folder").mkdir(parents=True)
    (tmp_path / "images" / "large.jpg").write_bytes(b"x" * 2001)
    os.mkfifo(tmp_path / "images" / "pipe.jpg")
    os.symlink(tmp_path / "images" / "loop.jpg", tmp_path / "images" / "loop.jpg")
    outside = [
        "../secret.jpg",
        "a/../../secret.jpg",
        f"{tmp_path}/secret.jpg",
        f"file://{tmp_path}/secret.jpg",
        "simplecache::x.jpg",
        "http://127.0.0.1/x.jpg",
        "gs://bucket/x.jpg",
        "..\\secret.jpg",
        "a\0.jpg",
    ]
    names = ["gone.jpg", *outside, "large.jpg", "folder", "pipe.jpg", "large.jpg/x.jpg"]
    found = read(tmp_path, _list(tmp_path, "".join(f"{name} 1\n" for name in names)))
    expected = ["MissingImage", *["PathOutsideRoot"] * 9, "TooLarge", "NotAFile", "NotAFile", "MissingImage"]
    assert [item.error_type for item in found] == expected
    assert not any(item.retryable for item in found)
    (odd,) = read(tmp_path, _list(tmp_path, "loop.jpg 1\n"))
    assert (odd.error_type, odd.retryable) == ("OSError", True)


def test_links_out_of_the_image_root_are_not_followed(tmp_path):
    images = write_images(tmp_path / "real", "0.jpg", "deep/1.jpg")
    write_images(tmp_path / "elsewhere", "2.jpg")
    write_images(tmp_path / "real-too", "3.jpg")
    with zipfile.ZipFile(tmp_path / "elsewhere/x.zip", "w") as archive:
        archive.writestr("0.jpg", image(0))
    os.symlink(tmp_path / "real", tmp_path / "images")
    links = {"in.jpg": "real/0.jpg", "out.jpg": "elsewhere/2.jpg", "near.jpg": "real-too/3.jpg"}
    for name, target in {**links, "folder": "elsewhere", "x.zip": "elsewhere/x.zip"}.items():
        os.symlink(tmp_path / target, tmp_path / "real" / name)
    names = ["deep/1.jpg", "in.jpg", "out.jpg", "near.jpg", "folder/2.jpg", "x.zip/0.jpg"]
    (tmp_path / "Set_train.txt").write_text("".join(f"{name} 0\n" for name in names))
    found = read(tmp_path, _SOURCE)
    assert [item.image for item in found[:2]] == [images["deep/1.jpg"], images["0.jpg"]]
    assert [(item.error_type, item.message) for item in found[2:]] == [
        ("PathOutsideRoot", "the path is a link that leaves the image root")
    ] * 4


def test_an_error_of_the_disk_may_be_gone_the_next_time(tmp_path, monkeypatch):
    write_images(tmp_path / "images", "0.jpg")
    (shard,) = plan(tmp_path, _list(tmp_path, "0.jpg 0\n"))

    class Failing:
        def __enter__(self):
            raise OSError(5, "Input/output error")

        def __exit__(self, *unused):
            return False

    whole = storage.open_read
    monkeypatch.setattr(storage, "open_read", lambda uri: Failing() if uri.endswith(".jpg") else whole(uri))
    assert list(sources.read(shard, EMBED)) == [
        Reject("0.jpg", "read", "OSError", "[Errno 5] Input/output error", retryable=True)
    ]


def test_images_of_zips_and_of_stores(tmp_path):
    root = f"memory://{tmp_path.name}"
    with storage.atomic_write(f"{root}/images/a.zip") as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr("in/0.jpg", image(0))
        archive.writestr("large.jpg", b"x" * 2001)
    with storage.atomic_write(f"{root}/images/1.jpg") as file:
        file.write(image(1))
    with storage.atomic_write(f"{root}/Set_train.txt") as file:
        names = ["a.zip/in/0.jpg", "a.zip/gone.jpg", "a.zip/large.jpg", "b.zip/0.jpg", "1.jpg", "2.jpg"]
        file.write("".join(f"{name} 0\n" for name in names).encode())
    found = read(root, _SOURCE)
    assert [item.image for item in found if isinstance(item, Sample)] == [image(0), image(1)]
    assert [item.error_type for item in found if isinstance(item, Reject)] == [
        "MissingImage",
        "TooLarge",
        "MissingImage",
        "MissingImage",
    ]
    assert fsspec.filesystem("memory").exists(f"{root}/listings")


def test_class_names_are_captions_of_labelled_rows(tmp_path):
    write_images(tmp_path / "images", "0.jpg", "1.jpg")
    (tmp_path / "names.txt").write_text("tench\nn02\tgolden retriever\n")
    source = dataclasses.replace(_list(tmp_path, "0.jpg 1\n1.jpg 0\n"), class_names="names.txt")
    assert [(item.label, item.caption) for item in read(tmp_path, source)] == [(1, "golden retriever"), (0, "tench")]
    _list(tmp_path, "0.jpg 2\n")
    with pytest.raises(UserError, match="names.txt: names 2 classes, 0.jpg has label 2"):
        plan(tmp_path, source)


def test_class_names_leave_captions_and_unlabelled_rows_alone(tmp_path):
    write_images(tmp_path, "0.jpg", "1.jpg", "2.jpg")
    (tmp_path / "names.txt").write_text("cat\n")
    (tmp_path / "t.csv").write_text("path,caption,label\n0.jpg,mine,0\n1.jpg,,0\n2.jpg,,\n")
    found = read(tmp_path, Source(format="table", path="t.csv", class_names="names.txt"))
    assert [item.caption for item in found] == ["mine", "cat", None]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "Set_train.txt: is empty, it names no image"),
        (b"a.jpg 0\n\xff.jpg 1\n", "Set_train.txt, line 2: is not UTF-8 text"),
        (b"a" * (1 << 20) + b"b", "Set_train.txt, line 1: is longer than 1,048,576 bytes"),
    ],
)
def test_a_list_that_is_none_is_worded(tmp_path, data, sentence):
    (tmp_path / "Set_train.txt").write_bytes(data)
    with pytest.raises(UserError, match=sentence):
        plan(tmp_path, _SOURCE)


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_compressed_lists_and_what_is_left_of_them(tmp_path, suffix):
    write_images(tmp_path / "images", "0.jpg")
    path = tmp_path / f"x.txt{suffix}"
    with fsspec.open(str(path), "wb", compression="infer") as file:
        file.write(b"\xef\xbb\xbf" + b"0.jpg 3\r\n" * 3000)
    source = dataclasses.replace(_SOURCE, path=path.name)
    embed = dataclasses.replace(EMBED, list_shard_rows=3000)
    assert {(item.member, item.label) for item in read(tmp_path, source, embed)} == {("0.jpg", 3)}
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(UserError, match=f"x.txt{suffix}.* (breaks off after line|must be)"):
        plan(tmp_path, source)


def test_planning_errors(tmp_path):
    with pytest.raises(UserError, match="nothing.txt: no such file"):
        plan(tmp_path, dataclasses.replace(_SOURCE, path="nothing.txt"))
    with pytest.raises(UserError, match="matches no file"):
        plan(tmp_path, dataclasses.replace(_SOURCE, path="*.txt"))
