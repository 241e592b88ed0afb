"""The picture of the report."""

import numpy as np
import pytest
from PIL import Image

from model.reports import gallery
from model.reports.gallery import Example, Neighbor


def _picture(color):
    return Image.new("RGB", (40, 40), color)


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_the_gallery_shows_images_and_weights(weight):
    near = [Neighbor(_picture("blue"), "a text that is long enough to be wrapped " * 3, weight, 0.9)]
    examples = [Example(_picture("red"), "cat", "dog", 3, near, near)] * 2
    canvas = np.asarray(gallery.draw(examples, 8, "mam", "title"))
    assert (canvas == (255, 0, 0)).all(-1).sum() == 2 * 128 * 128
    assert (canvas == (0, 0, 255)).all(-1).sum() == 4 * 128 * 128
    bars = (canvas == (21, 128, 61)).all(-1).sum(1)
    # A weight of 1 is 8 times even, beyond the full bar; 1/4 is twice even, half a bar.
    assert sorted(bars)[-8:] == [min(round(128 * weight * 8 / 4), 128) + 1] * 8 if weight else True


def test_few_may_be_kept_or_filtered():
    one, two = Neighbor(_picture("blue"), "a", 0.9, 0.9), Neighbor(_picture("blue"), "b", 0.0, 0.9)
    examples = [
        Example(_picture("red"), "cat", "dog", 3, kept=[one], filtered=[two, two]),
        Example(_picture("red"), "cat", "dog", 3, kept=[one] * 3, filtered=[]),
    ]
    canvas = np.asarray(gallery.draw(examples, 8, "mam", "title"))
    assert (canvas == (0, 0, 255)).all(-1).sum() == 6 * 128 * 128


def test_the_picture_is_of_the_first_head_that_learns_attention():
    assert gallery.choose_head(("linear", "mlp", "mean_knn", "mam", "mam_names")) == "mam"
    assert gallery.choose_head(("linear", "mean_knn", "rac")) is None
