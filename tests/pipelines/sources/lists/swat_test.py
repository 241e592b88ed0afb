"""Lists of SWAT: paths, labels and where an image is from."""

import dataclasses

import pytest

from configs.base import Source
from pipelines.errors import UserError
from pipelines.sources import Sample
from tests.pipelines.sources.listed import plan, read, write_images

_SOURCE = Source(format="swat", path="list.txt", image_root="images")


def test_images_of_the_set_and_those_found_by_name(tmp_path):
    images = write_images(tmp_path / "images", "jpg/image_1.jpg", "0/a b.jpg")
    # The published lists have no line feed at their end.
    (tmp_path / "list.txt").write_text("jpg/image_1.jpg 1 1\n\n0/a b.jpg 0 0")
    assert read(tmp_path, _SOURCE) == [
        Sample("jpg/image_1.jpg", images["jpg/image_1.jpg"], label=1, metadata={"source": 1}),
        Sample("0/a b.jpg", images["0/a b.jpg"], label=0, metadata={"source": 0}),
    ]


def test_the_name_of_the_class_is_the_caption(tmp_path):
    write_images(tmp_path / "images", "0/a.jpg")
    (tmp_path / "list.txt").write_text("0/a.jpg 1 0")
    (tmp_path / "names.txt").write_text("pink primrose\ncanna lily\n")
    (found,) = read(tmp_path, dataclasses.replace(_SOURCE, class_names="names.txt"))
    assert (found.caption, found.label) == ("canna lily", 1)


@pytest.mark.parametrize("line", ["a.jpg 0", "a.jpg 0 2", "a.jpg 0 x", " 1 1", "1", "a.jpg 0 1 1", "a.jpg -1 1"])
def test_another_line_is_refused_by_its_number(tmp_path, line):
    (tmp_path / "list.txt").write_text(f"b.jpg 0 1\n{line}\n")
    with pytest.raises(UserError, match="list.txt, line 2: must be `relative/path label"):
        plan(tmp_path, _SOURCE)
