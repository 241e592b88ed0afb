import base64
import io

import numpy as np
import pytest
from PIL import Image

from configs.base import Config, Source
from pipelines.errors import UserError
from pipelines.sources import pictures
from tests.pipelines import tiny_encoders as tiny


def test_a_row_s_picture_is_found_again(tmp_path):
    config = Config(data=str(tmp_path), memory=Source(path="pairs/*.tar"))
    tiny.write_tar(tmp_path / "pairs/0.tar", [("a", tiny.image_bytes(1), "x"), ("b", tiny.image_bytes(2), "y")])
    container = f"{tmp_path}/pairs/0.tar"
    found = pictures.load(config, config.memory, container, "b.jpg")
    right = Image.open(io.BytesIO(tiny.image_bytes(2)))
    np.testing.assert_array_equal(np.asarray(found), np.asarray(right))
    with pytest.raises(UserError, match=f"{container}, c.jpg: is not there; the file has changed since"):
        pictures.load(config, config.memory, container, "c.jpg")


def test_a_picture_that_is_none_any_more(tmp_path):
    config = Config(data=str(tmp_path), memory=Source(format="image_list", path="list.txt", image_root="images"))
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_bytes(b"no image")
    folder = f"{tmp_path}/images"
    with pytest.raises(UserError, match=f"{folder}, a.png: .*; it has changed since it was embedded"):
        pictures.load(config, config.memory, folder, "a.png")


@pytest.mark.parametrize(("size", "shown"), [((400, 100), (200, 50)), ((30, 300), (20, 200)), ((40, 20), (40, 20))])
def test_data_url_is_a_small_jpeg(size, shown):
    picture = Image.new("RGB", size, (200, 30, 60))
    head, _, data = pictures.data_url(picture, 200).partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
    assert (head, image.format, image.size) == ("data:image/jpeg;base64", "JPEG", shown)
    assert np.abs(np.asarray(image, float) - (200, 30, 60)).max() < 4
    assert picture.size == size
