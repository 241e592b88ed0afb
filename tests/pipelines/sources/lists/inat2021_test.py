"""The JSON of iNaturalist 2021."""

import gzip
import json
import re

import pytest

from configs.base import Source
from pipelines.errors import UserError
from pipelines.sources import Sample, text
from tests.pipelines.sources.listed import plan, read, write_images

_SOURCE = Source(format="inat2021", path="train_mini.json", image_root=".")


def _category(number, name, common):
    return {"id": number, "name": name, "common_name": common, "supercategory": "Birds", "kingdom": "Animalia"}


def _image(number, name, latitude=1.5):
    known = {"id": number, "width": 500, "height": 375, "file_name": name, "license": 0, "rights_holder": "Zoë"}
    return {**known, "date": "2018-05-01 12:00:00+00:00", "latitude": latitude}


def _data(names):
    return {
        "info": {"year": 2021, "version": "2"},
        "images": [_image(7, names[0]), _image(3, names[1], float("nan")), _image(5, names[2])],
        "categories": [_category(0, "Larus fuscus", "Gull"), _category(1, "Apis", ""), _category(2, "Rana", "Rana")],
        "annotations": [
            {"id": 0, "image_id": 3, "category_id": 1},
            {"id": 1, "image_id": 5, "category_id": 2},
            {"id": 2, "image_id": 7, "category_id": 0},
        ],
        "licenses": [{"id": 0, "name": "CC BY-NC 4.0", "url": "http://creativecommons.org/licenses/by-nc/4.0/"}],
    }


_NAMES = [f"train_mini/0000{i}_Animalia/{i}.jpg" for i in range(3)]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("block", [512, 1 << 20])
def test_images_with_their_category(tmp_path, monkeypatch, indent, block):
    monkeypatch.setattr(text, "BLOCK_BYTES", block)
    images = write_images(tmp_path, *_NAMES)
    (tmp_path / "train_mini.json").write_text(json.dumps(_data(_NAMES), indent=indent))
    common = {"supercategory": "Birds", "rights_holder": "Zoë", "date": "2018-05-01 12:00:00+00:00"}
    common["license"] = "CC BY-NC 4.0"
    assert read(tmp_path, _SOURCE) == [
        Sample(
            _NAMES[0],
            images[_NAMES[0]],
            "Gull (Larus fuscus)",
            0,
            metadata={**common, "name": "Larus fuscus", "common_name": "Gull", "latitude": 1.5},
        ),
        Sample(_NAMES[1], images[_NAMES[1]], "Apis", 1, metadata={**common, "name": "Apis", "common_name": ""}),
        Sample(
            _NAMES[2],
            images[_NAMES[2]],
            "Rana",
            2,
            metadata={**common, "name": "Rana", "common_name": "Rana", "latitude": 1.5},
        ),
    ]


def test_a_compressed_file_and_any_order_of_the_arrays(tmp_path):
    write_images(tmp_path, *_NAMES)
    data = dict(sorted(_data(_NAMES).items()))
    with gzip.open(tmp_path / "train_mini.json.gz", "wt") as file:
        json.dump(data, file)
    found = read(tmp_path, Source(format="inat2021", path="train_mini.json.gz"))
    assert [item.label for item in found] == [0, 1, 2]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda data: data.pop("annotations"), "train_mini.json: has no 'annotations'"),
        (lambda data: data["categories"][1].update(id=0), "entry 1 of 'categories': has the id 0 of an earlier"),
        (lambda data: data["categories"][1].update(id=5), "'annotations' has category_id 1, which 'categories' lacks"),
        (lambda data: data["categories"].pop(), "'annotations' has category_id 2, which 'categories' lacks"),
        (lambda data: data["annotations"].pop(), "entry 0 of 'images': has no entry in 'annotations'"),
        (lambda data: data["annotations"].append(data["annotations"][0]), "image 3 has more than one entry"),
        (lambda data: data["annotations"][1].update(image_id="5"), "entry 1 of 'annotations': 'image_id' must be"),
        (lambda data: data["annotations"][1].update(category_id=-1), "'category_id' must be a whole number from 0"),
        (lambda data: data["images"][2].update(id=1.0), "entry 2 of 'images': 'id' must be a whole number"),
        (
            lambda data: data["images"][2].pop("file_name"),
            "entry 2 of 'images': 'file_name' must be a path, found None",
        ),
        (lambda data: data["images"].append("x"), "at entry 3 of 'images' (is of type str, not an object)"),
        (lambda data: data.update(images=[]), "is empty, it names no image"),
        (lambda data: data.clear(), "has no 'annotations'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, sentence):
    data = _data(_NAMES)
    change(data)
    (tmp_path / "train_mini.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match=re.escape(sentence)):
        plan(tmp_path, _SOURCE)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ('{"images": [{"a": 1}', "at entry 1 of 'images' (found the end, expected one of ,])"),
        ('{"images": [{"a": 1}] ', "at entry 1 of 'images' (found the end, expected one of ,})"),
        ("[1]", "at its start (found [, expected one of {)"),
        ('{"images": [{"a": ', "at entry 0 of 'images'"),
        ('{"a": 1} x', "something follows its end"),
        ('{"a": ' + "[" * 100_000, "recursion"),
        ('{"a": {"b":' * 50_000, "recursion"),
    ],
)
def test_broken_json_is_worded(tmp_path, data, sentence):
    (tmp_path / "train_mini.json").write_text(data)
    with pytest.raises(UserError) as error:
        plan(tmp_path, _SOURCE)
    assert "train_mini.json: is not the JSON that is expected" in str(error.value)
    assert sentence in str(error.value)


def test_a_broken_compression_is_worded(tmp_path):
    whole = gzip.compress(json.dumps(_data(_NAMES)).encode())
    (tmp_path / "train_mini.json.gz").write_bytes(whole[:-20])
    with pytest.raises(UserError, match="train_mini.json.gz: breaks off"):
        plan(tmp_path, Source(format="inat2021", path="train_mini.json.gz"))
