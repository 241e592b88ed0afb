"""The command that varies one thing, end to end on a small world."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model import ablate, train
from tests.world import PLAIN_TRIALS, World

_FLAGS = (
    "--config.train.heads=linear,mam",
    "--config.train.values=text",
    "--config.train.seeds=0,1",
    "--config.train.steps=6",
    "--config.train.learning_rates=0.01,0.02",
    "--config.train.dropouts=0",
    "--config.train.batch_size=16",
    "--config.train.attention_dim=4",
    "--config.train.value_dim=8",
    *(f"--config.{name}={value}" for name, value in PLAIN_TRIALS.items()),
    "--config.train.many_over=13",
    "--config.train.few_under=14",
)


@pytest.fixture(scope="module")
def world(looked_up, tmp_path_factory) -> World:
    return looked_up.copy(tmp_path_factory.mktemp("ablated"))


def _argv(world: World, *more: str) -> list[str]:
    return [f"--config={world.config_file}", *_FLAGS, *more]


def _found(world: World, name: str) -> dict:
    return json.loads((world.folder / f"ablations/{name}.json").read_text())


@pytest.mark.slow
def test_every_value_is_trained_once_with_the_chosen_setting(world, capsys):
    assert ablate.main(_argv(world, "--vary=k=2,5")) == 2
    assert "chosen.json: does not exist; run web-memory train with this configuration first" in capsys.readouterr().err
    assert train.main(_argv(world)) == 0
    capsys.readouterr()
    assert ablate.main(_argv(world, "--vary=k=2,7")) == 0
    printed = capsys.readouterr().out
    found = _found(world, "k")
    assert [(point["value"], point["neighbors"], point["rows"]) for point in found["points"]] == [
        ("2", 2, 400),
        ("7", 7, 400),
    ]
    linear = [point["methods"]["linear"] for point in found["points"]]
    assert linear[0] == linear[1]
    # All of the list is what the configuration trains on anyway: the same seeds give the same figures.
    (folder,) = world.folder.glob("runs/*")
    for head in ("linear", "mam"):
        runs = [run for run in found["points"][1]["runs"] if run["method"] == head]
        for run in runs:
            result = json.loads((folder / head / f"seed-{run['seed']}/result.json").read_text())
            assert run["all"] == result["accuracy"]["all"] and run["val"] == result["val_accuracy"]["all"]
    assert "neighbours k" in printed and "ablations/k.svg" in printed
    assert (world.folder / "ablations/k.svg").read_text().count("mam") > 0
    (own,) = world.folder.glob("ablations/k-*.json")
    assert own.read_bytes() == (world.folder / "ablations/k.json").read_bytes()
    # One run of linear, two of mam, for each seed; none of them is repeated, nor are checkpoints kept.
    results = sorted(world.folder.glob("ablations/runs/*/*/*/result.json"))
    assert len(results) == 6 and not list(world.folder.glob("ablations/runs/*/*/*/checkpoints"))
    before = [path.stat().st_mtime_ns for path in results]
    assert ablate.main(_argv(world, "--vary=k=2,7", "--markdown")) == 0
    assert [path.stat().st_mtime_ns for path in results] == before
    assert "| neighbours k | memory rows | neighbours listed | linear | mam |" in capsys.readouterr().out


@pytest.mark.slow
def test_a_sweep_chooses_at_each_value(world):
    assert ablate.main(_argv(world, "--vary=memory_size=1/2,1", "--sweep", "--config.train.heads=mam")) == 0
    found = _found(world, "memory_size")
    assert [point["rows"] for point in found["points"]] == [200, 400]
    chosen = list(world.folder.glob("ablations/runs/*/mam/chosen.json"))
    swept = [path for path in chosen if json.loads((path.parents[1] / "stage.json").read_text())["chosen"] is None]
    assert len(swept) == 2 and all(len(list(path.parent.glob("trial-*"))) == 2 for path in swept)
    # What is varied is no axis of the trials of its value.
    argv = _argv(world, "--vary=value_scale=0,2.5", "--sweep", "--config.train.heads=mam")
    assert ablate.main([*argv, "--config.train.space=value_scale=1.0|5.0,similarity=cosine"]) == 0
    stages = {path: json.loads((path / "stage.json").read_text()) for path in world.folder.glob("ablations/runs/*")}
    of_value = [path for path, stage in stages.items() if stage["vary"] == "value_scale"]
    points = [json.loads(path.read_text())["point"] for run in of_value for path in run.glob("mam/trial-*/trial.json")]
    assert len(points) == 4 and not any("value_scale" in point for point in points)


def _attention(folder: Path) -> pa.ChunkedArray:
    return pq.read_table(folder / "mam/seed-0/predictions.parquet")["attention"]


@pytest.mark.slow
def test_what_is_made_of_the_task_is_of_the_varied_setting(world):
    assert train.main(_argv(world)) == 0
    assert ablate.main(_argv(world, "--vary=similarity")) == 0
    folders = {
        identity["value"]: path.parent
        for path in world.folder.glob("ablations/runs/*/stage.json")
        if (identity := json.loads(path.read_text()))["vary"] == "similarity"
    }
    (trained,) = world.folder.glob("runs/*")
    assert _attention(folders["cosine"]).equals(_attention(trained))
    assert not _attention(folders["whitened"]).equals(_attention(trained))
