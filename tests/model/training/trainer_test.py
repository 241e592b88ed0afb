"""Steps of the trainer: compilations, types, devices."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from configs.base import Train
from model.data import tables
from model.training.trainer import Setting, Trainer
from tests.model.small_task import small_task

_SETTING = Setting(0.01, 0.01, 0.1)
_TRAIN = Train(
    values=("text",),
    steps=25,
    batch_size=32,
    checkpoint_every=10,
    attention_dim=4,
    value_dim=8,
    attention_heads=2,
    layers=2,
    null_slot=True,
    feed_forward=12,
    neighbor_dropout=0.2,
    value_scale=0.0,
    similarity="cosine",
)
_ROOT = pathlib.Path(__file__).parents[3]


def _losses(dtype: str = "float32") -> tuple[Trainer, np.ndarray]:
    task = small_task(rows=64)
    trainer = Trainer("mam", task, tables.load(task, dtype), _TRAIN)
    return trainer, trainer.steps(trainer.start(0), 0, _TRAIN.steps, _SETTING)[1]


@pytest.fixture(scope="module")
def trained():
    return _losses()


def test_all_settings_seeds_and_lengths_share_one_compilation(trained):
    trainer, losses = trained
    state, first = trainer.steps(trainer.start(0), 0, 13, _SETTING)
    state, rest = trainer.steps(state, 0, 25, _SETTING)
    np.testing.assert_array_equal(np.concatenate([first, rest]), losses)
    trainer.steps(trainer.start(1), 1, 7, Setting(0.02, 0.0, 0.5))
    for split in ("val", "test"):
        trainer.accuracy(state.params, split)
    assert trainer.compilations == {"start": 1, "steps": 1, "predict": 1}


@pytest.mark.slow
def test_bfloat16_follows_float32_with_float32_parameters(trained):
    trainer, losses = _losses("bfloat16")
    assert trainer.data["train"].keys.dtype == "bfloat16"
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(trainer.start(0).params)} == {"float32"}
    difference = np.abs(losses - trained[1])
    assert 0 < difference.max() < 0.02 * trained[1].max()


@pytest.mark.slow
def test_eight_devices_have_the_curve_of_one(trained):
    code = (
        "import json, jax; from tests.model.training import trainer_test as t; trainer, losses = t._losses();"
        "state = trainer.start(0); near = trainer.data['train'].neighbors;"
        "print(json.dumps([jax.device_count(), len(near.sharding.device_set), trainer.compilations, losses.tolist(),"
        "trainer.accuracy(state.params, 'test')['all']]))"
    )
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | flags, cwd=_ROOT, capture_output=True, text=True, check=True
    )
    count, holders, compilations, losses, accuracy = json.loads(done.stdout.splitlines()[-1])
    assert (count, holders) == (8, 8)
    assert compilations == {"start": 1, "steps": 1, "predict": 0}
    np.testing.assert_allclose(losses, trained[1], rtol=1e-5)
    trainer = trained[0]
    assert accuracy == trainer.accuracy(trainer.start(0).params, "test")["all"]
