"""The worked example of CONTRIBUTING.md: a head in one file, registered and trained."""

import importlib.util
import pathlib
import re
import sys

import numpy as np
import pytest

from configs.base import Train
from model.data import tables
from model.heads import registry
from model.heads.base import Head
from model.training import preparation
from model.training.trainer import Setting, Trainer
from tests.model.small_task import small_task

_CONTRIBUTING = pathlib.Path(__file__).parents[3] / "CONTRIBUTING.md"


@pytest.fixture
def head(tmp_path, monkeypatch) -> Head:
    """The head of the example, registered."""
    (code,) = re.findall(r"<!-- example: add-a-head -->\n```python\n(.*?)```", _CONTRIBUTING.read_text(), re.DOTALL)
    path = tmp_path / "example_head.py"
    path.write_text(code)
    spec = importlib.util.spec_from_file_location("example_head", path)
    module = importlib.util.module_from_spec(spec)
    # Flax looks the module up by its name.
    monkeypatch.setitem(sys.modules, "example_head", module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(registry.HEADS, module.HEAD.name, module.HEAD)
    return module.HEAD


def test_the_example_of_the_docs_is_a_head_that_learns(head):
    train = Train(heads=("linear", head.name), values=("text",), steps=40, batch_size=32, checkpoint_every=20)
    task = preparation.prepare(small_task(), train)
    data = tables.load(task)
    trainer = Trainer(head.name, task, data, train)
    start = trainer.start(0)
    # It starts at the linear classifier.
    scores, weights = trainer.predict(start.params, "val")
    classifier = start.params["head"]["Linear_0"]["classifier"]
    np.testing.assert_allclose(scores, data["val"].queries @ classifier["kernel"] + classifier["bias"], atol=1e-3)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
    _, losses = trainer.steps(start, 0, 40, Setting(0.01, 0.0, 0.0))
    assert losses[-5:].mean() < losses[:5].mean()
