"""The sweep command on a small world: what it runs, what it leaves alone, and that training continues from it."""

import hashlib

import numpy as np
import pytest

from model import sweep, train
from model.data import tables
from model.training import train_loop
from pipelines import storage
from tests.world import PLAIN_TRIALS

_FLAGS = PLAIN_TRIALS | {
    "train.heads": "linear,mean_knn",
    "train.values": "text",
    "train.steps": "12",
    "train.batch_size": "16",
    "train.checkpoint_every": "12",
    "train.search": "random",
    "train.trials": "2",
    "train.space": "similarity_scale=10|20,k=0,value_scale=0",
    "train.learning_rates": "0.01,0.03",
    "train.dropouts": "0,0.2",
    "train.seeds": "0",
    "train.attention_dim": "4",
    "train.value_dim": "8",
}


def _argv(world, **changes):
    flags = _FLAGS | {name.replace("__", "."): value for name, value in changes.items()}
    return [f"--config={world.config_file}", *(f"--config.{name}={value}" for name, value in flags.items())]


def _bytes(world):
    files = [*world.folder.glob("runs/*/*/*/metrics.jsonl"), *world.folder.glob("runs/*/*/*/trial.json")]
    return {str(f.relative_to(world.folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_trials_are_run_without_test_and_training_continues_from_them(looked_up, tmp_path, monkeypatch, capsys):
    world = looked_up.copy(tmp_path / "swept")
    loaded = []
    load = tables.load
    monkeypatch.setattr(tables, "load", lambda task, *rest: loaded.append(set(task.splits)) or load(task, *rest))
    assert sweep.main(_argv(world)) == 0
    assert loaded == [{"train", "val"}]
    printed = capsys.readouterr().out
    assert "linear: 2 trials, val accuracy, %" in printed and "mean_knn: 2 trials" in printed
    for head in ("linear", "mean_knn"):
        results = {
            i: storage.read_json(str(next(world.folder.glob(f"runs/*/{head}/trial-{i}/result.json")))) for i in range(2)
        }
        means = {i: np.mean(list(result["accuracy"].values())) for i, result in results.items()}
        best = max(means, key=lambda i: (means[i], -i))
        assert f"best: trial {best}, " in printed
        assert {result["split"] for result in results.values()} == {"val"}
    assert not list(world.folder.rglob("seed-*")) and not list(world.folder.rglob("predictions.parquet"))
    before = {path: path.stat().st_mtime_ns for path in world.folder.rglob("trial-*/result.json")}
    swept = _bytes(world)
    assert train.main(_argv(world)) == 0
    assert {path: path.stat().st_mtime_ns for path in world.folder.rglob("trial-*/result.json")} == before
    assert len(list(world.folder.rglob("seed-0/predictions.parquet"))) == 2

    other = looked_up.copy(tmp_path / "stopped")
    calls = []

    def stop(*args, run=train_loop.run):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return run(*args)

    with monkeypatch.context() as patch:
        patch.setattr(train_loop, "run", stop)
        assert sweep.main(_argv(other)) == 130
    assert len(list(other.folder.rglob("trial-*/result.json"))) == 3
    assert sweep.main(_argv(other)) == 0
    assert _bytes(other) == swept


@pytest.mark.slow
def test_another_budget_is_another_folder(world):
    assert sweep.main(_argv(world, train__heads="linear", train__trials="1")) == 0
    assert sweep.main(_argv(world, train__heads="linear", train__trials="2")) == 0
    assert len(list((world.folder / "runs").iterdir())) == 2


def test_refusals_are_one_sentence(world, capsys):
    for changes, sentence in [
        ({"train__trials": "9", "train__search": "grid"}, "--config.train.trials=9: a grid has 8 settings"),
        ({"train__space": "layers=0|1", "train__trials": "8"}, "--config.train.layers=0: must be at least 1"),
        ({"train__shots": "olrt"}, "--config.train.shots=olrt: unknown; did you mean 'oltr'?"),
    ]:
        assert sweep.main(_argv(world, **changes)) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and sentence in error and error.count("\n") == 1, error
