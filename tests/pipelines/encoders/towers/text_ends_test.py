"""Texts as long as a tower takes, and the id that ends a text, by config."""

import json

import numpy as np
import pytest

from pipelines.encoders.towers import graph
from pipelines.encoders.towers.hugging_face import models
from pipelines.encoders.towers.tower import Blocks, TextForm, Tower


def test_padding_may_reach_behind_the_last_position():
    form = TextForm(Blocks(1, 8, 2, 8, "gelu", 1e-5, causal=True), 20, "end", positions=13, end=19, is_masked=False)
    generator = np.random.default_rng(0)
    arrays = {name: generator.normal(size=shape).astype(np.float32) for name, shape in form.shapes().items()}
    module = graph.module(Tower(form, arrays))
    ids = np.array([[*range(1, 13), 19, 0, 0, 0]], np.int32)
    mask = (ids > 0).astype(np.int32)
    whole, cut = module.features(ids, mask), module.features(ids[:, :13], mask[:, :13])
    np.testing.assert_array_equal(whole, cut)


@pytest.mark.parametrize(("model_type", "said", "end"), [("clip", 2, -1), ("clip", 49407, 49407), ("metaclip_2", 2, 2)])
def test_the_id_2_ends_texts_of_metaclip_and_means_the_highest_in_old_configs_of_clip(model_type, said, end, tmp_path):
    config = {"model_type": model_type, "text_config": {"eos_token_id": said}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert models.read_form(tmp_path, "text", None).end == end
