import json
import sys

import numpy as np
import pytest

from benchmarks import train
from configs.base import Train

_SMALL = ["--batch=16", "--k=5", "--dim=32", "--heads=2", "--rows=300", "--classes=7", "--repeats=1", "--product=64"]


@pytest.mark.slow
def test_both_steps_are_the_same_step(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train", "--part=rates", *_SMALL])
    assert train.main() == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert next(iter(result)) == "floor_over_step"
    assert result["loss_difference"] < 1e-5 and result["gradient_difference"] < 1e-5
    np.testing.assert_allclose(result["floor_over_step"], result["floor_ms"] / result["step_ms"], rtol=1e-2)
    limit = result["floor_ms"] + result["read_ms"]
    np.testing.assert_allclose(result["limit_over_step"], limit / result["step_ms"], rtol=1e-2)


@pytest.mark.parametrize(("naive", "gflop"), [(False, 36.4), (True, 507.5)])
def test_flops_of_the_default_shape(naive, gflop):
    config = Train(layers=2, attention_heads=8, attention_dim=96, value_dim=768, feed_forward=1536)
    assert abs(train.flops(512, 100, 768, 1000, config, naive) / 1e9 - gflop) < 1
