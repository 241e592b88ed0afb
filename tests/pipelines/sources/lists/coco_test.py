"""Captions and instances in COCO's published layout."""

import dataclasses
import json

import pytest

from configs.base import Embed, Source
from pipelines import sources
from pipelines.errors import UserError
from pipelines.sources import Sample
from tests.pipelines.sources.listed import read, write_images

_SOURCE = Source(format="coco", path="captions.json", image_root="train2017")
_NAMES = [f"{number:012d}.jpg" for number in (9, 25, 30)]
_IMAGES = [
    {
        "license": 4,
        "file_name": name,
        "coco_url": f"http://images.cocodataset.org/train2017/{name}",
        "height": 6,
        "width": 8,
        "date_captured": "2013-11-14 11:18:45",
        "id": number,
    }
    for name, number in zip(_NAMES, (9, 25, 30), strict=True)
]
_LICENSES = [{"url": "http://x", "id": 4, "name": "Attribution License"}]
_INFO = {"description": "COCO 2017 Dataset", "year": 2017}
_CAPTIONS = [(25, "a giraffe "), (9, "bowls"), (25, "two giraffes")]
_INSTANCES = [(9, 51), (9, 51), (25, 25), (30, 51), (30, 25)]


def _write(root, name="captions.json", images=tuple(_IMAGES), **changes):
    captions = [{"image_id": image, "id": n, "caption": text} for n, (image, text) in enumerate(_CAPTIONS)]
    whole = {"info": _INFO, "licenses": _LICENSES, "images": list(images), "annotations": captions}
    (root / name).write_text(json.dumps({**whole, **changes}))


def _write_instances(root, name="instances.json", **changes):
    instances = [
        {"segmentation": [[1.5, 2.0]], "area": 2.5, "iscrowd": 0, "image_id": image, "category_id": category, "id": n}
        for n, (image, category) in enumerate(_INSTANCES)
    ]
    categories = [
        {"supercategory": "kitchen", "id": 51, "name": "bowl"},
        {"supercategory": "animal", "id": 25, "name": "giraffe"},
    ]
    _write(root, name, **{"annotations": instances, "categories": categories, **changes})


def _expected(images, number, caption, **more):
    metadata = {"date_captured": "2013-11-14 11:18:45", "license": "Attribution License", **more.pop("metadata", {})}
    url = _IMAGES[number]["coco_url"]
    return Sample(_NAMES[number], images[_NAMES[number]], caption, url=url, metadata=metadata, **more)


def test_each_image_has_its_captions(tmp_path):
    images = write_images(tmp_path / "train2017", *_NAMES)
    _write(tmp_path)
    expected = [_expected(images, 0, "bowls"), _expected(images, 1, "a giraffe"), _expected(images, 2, None)]
    assert read(tmp_path, _SOURCE) == expected
    second = read(tmp_path, dataclasses.replace(_SOURCE, caption_number=1))
    assert [getattr(item, "caption", item) for item in second][1] == "two giraffes"
    assert [getattr(item, "error_type", "") for item in second] == ["BadCaption", "", "BadCaption"]


def test_an_image_of_one_category_has_a_label(tmp_path):
    """Numbers follow the ids: giraffe, 25, is before bowl, 51."""
    images = write_images(tmp_path / "train2017", *_NAMES)
    _write_instances(tmp_path)
    one, two = {"categories": ["bowl"]}, {"categories": ["giraffe"]}
    expected = [
        _expected(images, 0, None, label=1, metadata=one),
        _expected(images, 1, None, label=0, metadata=two),
        _expected(images, 2, None, metadata={"categories": ["bowl", "giraffe"]}),
    ]
    source = dataclasses.replace(_SOURCE, path="instances.json")
    assert read(tmp_path, source) == expected
    found = sources.find_names(source, str(tmp_path), Embed())
    assert (found.names, dict(found.counts())) == (("giraffe", "bowl"), {"giraffe": 1, "bowl": 1})
    assert found.notes == ("1 image of several categories, without a label",)
    _write(tmp_path)
    both = read(tmp_path, dataclasses.replace(_SOURCE, metadata="instances.json"))
    assert [(item.caption, item.label) for item in both] == [("bowls", 1), ("a giraffe", 0), (None, None)]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"annotations": []}, "instances.json: has no 'annotations' with a caption or a category_id"),
        ({"annotations": [{"image_id": 9}]}, "entry 0 of 'annotations': has neither a caption nor a category_id"),
        ({"annotations": [{"image_id": 9, "category_id": 3}]}, "has category_id 3, which 'categories' lacks"),
        ({"annotations": [{"image_id": "9"}]}, "'image_id' must be a whole number from 0, found 9"),
        ({"categories": [{"id": 1, "name": 5}]}, "entry 0 of 'categories': 'name' must be a text, found 5"),
        ({"images": [{"id": 9}]}, "entry 0 of 'images': 'file_name' must be a path, found None"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, changes, sentence):
    _write_instances(tmp_path, **changes)
    with pytest.raises(UserError, match=sentence):
        read(tmp_path, dataclasses.replace(_SOURCE, path="instances.json"))
