import numpy as np
import pytest
from PIL import Image

from model import gallery, report
from model.gallery import Example, Neighbor


def _result(head, seed, accuracy):
    groups = dict.fromkeys(("many", "medium", "few", "all"), accuracy)
    return {"head": head, "seed": seed, "accuracy": groups, "train_secs": 1.0}


def test_the_table_holds_means_and_standard_deviations(capsys):
    results = [_result("linear", 0, 0.5), _result("linear", 1, 0.52), _result("mam", 0, 0.6)]
    report.print_table(results, "title")
    printed = capsys.readouterr().out
    # The sample standard deviation of 50 and 52 is the square root of 2.
    assert printed.count("51.0 ± 1.4") == 4 and printed.count("60.0 ± 0.0") == 4


def _picture(color):
    return Image.new("RGB", (40, 40), color)


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_the_gallery_shows_images_and_weights(weight):
    near = [Neighbor(_picture("blue"), "a text that is long enough to be wrapped " * 3, weight, 0.9)]
    examples = [Example(_picture("red"), "cat", "dog", 3, near, near)] * 2
    canvas = np.asarray(gallery.draw(examples, 8, "title"))
    assert (canvas == (255, 0, 0)).all(-1).sum() == 2 * 128 * 128
    assert (canvas == (0, 0, 255)).all(-1).sum() == 4 * 128 * 128
    bars = (canvas == (21, 128, 61)).all(-1).sum(1)
    # A weight of 1 is 8 times even, beyond the full bar; 1/4 is twice even, half a bar.
    assert sorted(bars)[-8:] == [min(round(128 * weight * 8 / 4), 128) + 1] * 8 if weight else True
