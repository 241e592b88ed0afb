"""The first sentence of a report, and its warnings, for results that are known."""

import dataclasses

import numpy as np
import pytest

from configs.base import Config, Train
from model.reports.pages import headline, rows
from model.reports.pages.inputs import Inputs
from model.reports.runs import Run, Runs
from pipelines import storage
from pipelines.manifest import Embeddings, Marker
from tests.world import World

_ALL, _FEW, _MANY = (0.08, 0.058, 0.102), (0.112, 0.05, 0.15), (0.02, -0.01, 0.05)


def _differences(method, reference, **columns):
    names = ("difference", "low", "high")
    return [
        {"method": method, "reference": reference, "column": column, **dict(zip(names, figures, strict=True))}
        for column, figures in columns.items()
    ]


def _inputs(heads=("linear", "mam"), differences=(), folder="", **changes):
    labels, config = np.arange(1000, dtype=np.int32) % 20, Config(train=Train(heads=heads, many_over=30, few_under=10))
    predicted = np.zeros((1000, 1), np.int32)
    runs = [Run(head, seed, {}, predicted, np.ones((1000, 1), np.float32), "") for head in heads for seed in range(5)]
    results = {
        "methods": {head: {"all": {"mean": 0.5, "std": 0.01}} for head in heads},
        "val": {},
        "differences": list(differences),
        "warnings": [],
        "recall_at_k": 0.96,
        "k": 10,
    }
    found = Runs(folder, labels, np.arange(1, 21) * 3, runs)
    made = Inputs(config, (), results, found, None, [f"class {n}" for n in range(20)], False, lambda name, rows: {})  # type: ignore[arg-type]
    return dataclasses.replace(made, **changes)


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        (
            {"all": _ALL, "many": _MANY, "few": _FEW},
            "Memory adds 8.0 points [5.8, 10.2] over linear; most on few-shot classes (+11.2)",
        ),
        ({"all": _ALL}, "Memory adds 8.0 points [5.8, 10.2] over linear"),
        (
            {"all": (-0.02, -0.03, -0.01), "many": _MANY, "few": _FEW},
            "Memory costs 2.0 points [1.0, 3.0] against linear",
        ),
        (
            {"all": (0.004, -0.003, 0.011), "many": _MANY, "few": (0.01, -0.1, 0.1)},
            "No significant difference between mam and linear: +0.4 points [-0.3, +1.1]",
        ),
        (
            {"all": (0.004, -0.003, 0.011), "many": _MANY, "few": _FEW},
            "No significant difference between mam and linear: +0.4 points [-0.3, +1.1]; on few-shot classes +11.2 "
            "points [+5.0, +15.0]",
        ),
    ],
)
def test_the_headline_is_what_the_interval_allows(columns, sentence):
    assert headline.sentence(_inputs(differences=_differences("mam", "linear", **columns))) == sentence


def test_the_headline_without_a_memory_head_names_the_head():
    inputs = _inputs(("linear", "mlp"), _differences("mlp", "linear", all=_ALL))
    assert headline.sentence(inputs) == "mlp adds 8.0 points [5.8, 10.2] over linear"
    inputs = _inputs(("mam",))
    assert headline.sentence(inputs) == "mam reaches 50.0 % on 1,000 test images; it was compared with no other head"


def _doubts(inputs):
    return headline.doubts(inputs, [])


@pytest.fixture
def memory(tmp_path):
    """A memory that nothing was compared with."""
    return Config(workdir=str(World(tmp_path, 20).write().folder), train=Train(many_over=30, few_under=10))


def test_a_memory_that_may_hold_test_images_is_a_warning(memory):
    (leak,) = [text for text in _doubts(_inputs(config=memory)) if "copies" in text]
    assert "not searched for copies of val and test images" in leak and "--config.filters.leakage" in leak


@pytest.mark.parametrize(
    ("seeds", "words"), [((7,), "trained with one seed"), ((1, 2), "2 seeds say little"), ((1, 2, 3), "")]
)
def test_few_seeds_are_a_warning(memory, seeds, words):
    train = dataclasses.replace(memory.train, seeds=seeds)
    found = [text for text in _doubts(_inputs(config=dataclasses.replace(memory, train=train))) if "seed" in text]
    assert len(found) == bool(words) and all(words in text for text in found)


def test_rejects_and_a_recall_below_the_target_are_warnings(memory):
    inputs = _inputs(config=memory)
    inputs = dataclasses.replace(inputs, results={**inputs.results, "recall_at_k": 0.8})
    marker = Marker(0, "0", "in", 1, "", 100, 98, 2, "", "", "", 0.0)
    account = rows.Account("val", Embeddings(memory.places.queries("val")), [marker])
    found = headline.doubts(inputs, [account])
    assert "the index finds 80.0% of the nearest 10 rows, its target is 95%" in found
    assert "2.0% of the rows of val could not be used; the page Data says why" in found


@pytest.mark.parametrize(
    ("rates", "chosen", "trials", "heads"),
    [
        ((0.1, 0.2, 0.3), 0.3, 3, "mam"),
        ((0.1, 0.2, 0.3), 0.1, 3, "mam"),
        ((0.1, 0.2, 0.3), 0.2, 3, ""),
        ((0.1, 0.2), 0.2, 2, ""),
        # A head that is not tuned has one trial.
        ((0.1, 0.2, 0.3), 0.1, 1, ""),
    ],
)
def test_a_learning_rate_at_the_edge_is_a_warning(memory, tmp_path, rates, chosen, trials, heads):
    note = {"number": 0, "point": {"learning_rate": chosen}, "val_accuracy": 0.5, "trials": trials}
    storage.write_json(str(tmp_path / "runs/mam/chosen.json"), note)
    config = dataclasses.replace(memory, train=dataclasses.replace(memory.train, learning_rates=rates))
    found = [text for text in _doubts(_inputs(config=config, folder=str(tmp_path / "runs"))) if "learning rate" in text]
    assert len(found) == bool(heads) and all(f"rate of {heads} is" in text for text in found)
