"""Captions that say nothing, embedded by an encoder whose vectors NumPy knows."""

import re

import numpy as np
import pytest

from configs.base import Embed, Encoders
from model.reports.ablations import false_captions
from pipelines.encoders import handles
from pipelines.errors import UserError
from tests.pipelines import tiny_encoders as tiny


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder") / "text"
    return folder, tiny.save_text_encoder(folder)


def test_vectors_are_those_of_the_lines(encoder, tmp_path):
    folder, words = encoder
    file = tmp_path / "lines.txt"
    file.write_text("a red dog\n\nblue cat \n")
    known = false_captions.read(str(file))
    drawn = false_captions.draw(known, 40, 1)
    assert set(drawn) == {"a red dog", "blue cat"} and drawn == false_captions.draw(known, 40, 1)
    assert drawn != false_captions.draw(known, 40, 2)
    encoders = Encoders(value_text=(str(folder),))
    info = handles.configured(str(folder), encoders).info
    vectors = false_captions.embed(drawn, encoders, Embed(batch_size=3), info)
    expected = np.stack([words[[tiny.WORDS.index(word) for word in line.split()]].sum(0) for line in drawn])
    np.testing.assert_allclose(vectors, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)
    with pytest.raises(UserError, match="is not the encoder of the memory's text values"):
        false_captions.embed(drawn, encoders, Embed(), info.__class__("other", info.dim, True, "float32"))
    with pytest.raises(UserError, match="set --config.encoders.value_text to a text encoder"):
        false_captions.embed(drawn, Encoders(value_text=()), Embed(), info)


def test_junk_is_of_all_kinds_and_differs():
    drawn = false_captions.junk(2000, 0)
    assert len(set(drawn)) > 1500
    for pattern in (r"IMG_\d{4,}\.JPG", r"SKU \d{6} \| Free Shipping \| Buy Now", r"wp-content/.*\.jpg"):
        assert sum(bool(re.fullmatch(pattern, line)) for line in drawn) > 100


def test_a_file_without_a_line_is_refused(tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(UserError, match="has no line"):
        false_captions.read(f"{tmp_path}/empty.txt")
