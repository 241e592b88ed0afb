"""Images that are read again: found, and refused as at the first reading."""

import base64
import io
import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from configs.base import Embed, Source
from pipelines.errors import UserError
from pipelines.sources import pictures
from pipelines.sources.pictures import Pictures
from tests.pipelines import tiny_encoders as tiny

_LISTED = Source(format="image_list", path="list.txt", image_root="images")


def test_a_row_s_picture_is_found_again(tmp_path):
    tiny.write_tar(tmp_path / "pairs/0.tar", [("a", tiny.image_bytes(1), "x"), ("b", tiny.image_bytes(2), "y")])
    container = f"{tmp_path}/pairs/0.tar"
    memory = Pictures(Source(path="pairs/*.tar"), str(tmp_path), Embed())
    right = Image.open(io.BytesIO(tiny.image_bytes(2)))
    np.testing.assert_array_equal(np.asarray(memory.load(container, "b.jpg")), np.asarray(right))
    with pytest.raises(UserError, match=f"{container}, c.jpg: is not there; the file has changed since"):
        memory.load(container, "c.jpg")


def test_small_pictures_of_a_container_are_read_at_once(tmp_path):
    wide = io.BytesIO()
    Image.new("RGB", (640, 320), "red").save(wide, "JPEG")
    pairs = [("a", tiny.image_bytes(1), "x"), ("b", b"no image", "y"), ("c", wide.getvalue(), "z")]
    tiny.write_tar(tmp_path / "pairs/0.tar", pairs)
    memory = Pictures(Source(path="pairs/*.tar"), str(tmp_path), Embed())
    small = dict(memory.load_small(f"{tmp_path}/pairs/0.tar", ["c.jpg", "gone.jpg", "b.jpg"], 40))
    assert small.keys() == {"c.jpg", "b.jpg", "gone.jpg"} and small["b.jpg"] is None and small["gone.jpg"] is None
    assert small["c.jpg"].size == (40, 20) and small["c.jpg"].getpixel((20, 10))[0] > 250
    with pytest.raises(UserError, match="1.tar: no such file"):
        dict(memory.load_small(f"{tmp_path}/pairs/1.tar", ["a.jpg"], 40))


def test_small_pictures_of_a_list(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_bytes(tiny.image_bytes(1))
    (tmp_path / "secret.png").write_bytes(tiny.image_bytes(2))
    listed = Pictures(_LISTED, str(tmp_path), Embed())
    small = dict(listed.load_small(f"{tmp_path}/images", ["a.png", "../secret.png", "gone.png"], 8))
    assert max(small.pop("a.png").size) == 8 and small == {"../secret.png": None, "gone.png": None}


def test_vectors_have_no_pictures(tmp_path):
    vectors = Pictures(Source(format="vectors", path="x.npy"), str(tmp_path), Embed())
    assert not vectors.has_images and Pictures(_LISTED, str(tmp_path), Embed()).has_images
    with pytest.raises(UserError, match="x.npy: contains vectors, so there are no images to show"):
        dict(vectors.load_small("x.npy", ["0"], 8))


def test_a_picture_that_is_none_any_more(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_bytes(b"no image")
    folder = f"{tmp_path}/images"
    with pytest.raises(UserError, match=f"{folder}, a.png: .*; it has changed since it was embedded"):
        Pictures(_LISTED, str(tmp_path), Embed()).load(folder, "a.png")


def test_what_is_refused_at_first_is_refused_again(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (images / "x.jpg").write_bytes(b"in folder")
    with zipfile.ZipFile(images / "0.zip", "w") as archive:
        archive.writestr("a/x.jpg", b"in zip")
    os.symlink(tmp_path / "secret.jpg", images / "link.jpg")
    os.mkfifo(images / "pipe.jpg")
    listed = Pictures(_LISTED, str(tmp_path), Embed(max_image_bytes=100))
    assert listed.read(str(images), "x.jpg") == b"in folder"
    assert listed.read(str(images), "0.zip/a/x.jpg") == b"in zip"
    refused = {
        "../secret.jpg": "the path leaves the image root",
        f"{tmp_path}/secret.jpg": "the path leaves the image root",
        "link.jpg": "a link that leaves the image root",
        "pipe.jpg": "is a folder, pipe or device",
        f"file://{tmp_path}/secret.jpg": "must begin with one of",
        "0.zip/y.jpg": "has no member 'y.jpg'",
        "gone.jpg": "No such file",
    }
    for member, sentence in refused.items():
        with pytest.raises(UserError, match=f"{images}, {member}: .*{sentence}"):
            listed.read(str(images), member)
    small = Pictures(_LISTED, str(tmp_path), Embed(max_image_bytes=3))
    for member in ("x.jpg", "0.zip/a/x.jpg"):
        with pytest.raises(UserError, match="larger than 3 bytes"):
            small.read(str(images), member)


def test_a_url_is_downloaded_again(tmp_path, monkeypatch):
    answer = "pipelines.sources.web.download"
    monkeypatch.setattr(answer, lambda url, limit, private: f"{url} {limit} {private}".encode())
    table = Pictures(Source(format="table", path="t.csv"), str(tmp_path), Embed(max_image_bytes=7))
    assert table.read(str(tmp_path), "HTTPS://a.example/x.jpg") == b"https://a.example/x.jpg 7 False"


def test_a_file_of_the_user_may_be_anywhere(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"in folder")
    with zipfile.ZipFile(tmp_path / "0.zip", "w") as archive:
        archive.writestr("a/x.jpg", b"in zip")
    assert pictures.read_file(f"{tmp_path}/x.jpg", 9) == b"in folder"
    assert pictures.read_file(f"{tmp_path}/0.zip/a/x.jpg", 6) == b"in zip"
    for member in ("x.jpg", "0.zip/a/x.jpg"):
        with pytest.raises(UserError, match=f"{tmp_path}/{member}: is larger than 3 bytes"):
            pictures.read_file(f"{tmp_path}/{member}", 3)
    with pytest.raises(UserError, match="y.jpg: no such file"):
        pictures.read_file(f"{tmp_path}/y.jpg", 3)


@pytest.mark.parametrize(("size", "shown"), [((400, 100), (200, 50)), ((30, 300), (20, 200)), ((40, 20), (40, 20))])
def test_data_url_is_a_small_jpeg(size, shown):
    picture = Image.new("RGB", size, (200, 30, 60))
    head, _, data = pictures.data_url(picture, 200).partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
    assert (head, image.format, image.size) == ("data:image/jpeg;base64", "JPEG", shown)
    assert np.abs(np.asarray(image, float) - (200, 30, 60)).max() < 4
    assert picture.size == size
