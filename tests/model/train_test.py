"""The train command on a small world: results, resume, selection, refusals."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from model import objectives, train
from model.data import datasets, tables
from model.heads import registry
from model.training import train_loop
from model.training.trainer import Setting, Trainer
from pipelines import options, schemas, storage
from pipelines.errors import UserError
from tests import slow
from tests.world import PLAIN_TRIALS, SPLITS, World

_FLAGS = PLAIN_TRIALS | {
    "train.heads": "linear,mam",
    "train.values": "text",
    "train.steps": "24",
    "train.batch_size": "16",
    "train.checkpoint_every": "10",
    "train.learning_rates": "0.01,0.03",
    "train.dropouts": "0.2",
    "train.seeds": "0,1",
    "train.attention_dim": "4",
    "train.value_dim": "8",
    "train.neighbor_dropout": "0.2",
}


def _argv(world: World, **changes: str) -> list[str]:
    flags = _FLAGS | {name.replace("__", "."): value for name, value in changes.items()}
    return [f"--config={world.config_file}", *(f"--config.{name}={value}" for name, value in flags.items())]


def _config(world: World, **changes: str):
    return options.parse(_argv(world, **changes), "")[0]


@pytest.fixture(scope="module")
def trained(looked_up, tmp_path_factory) -> World:
    """The looked-up world after one run of the command."""
    world = looked_up.copy(tmp_path_factory.mktemp("trained"))
    assert train.main(_argv(world)) == 0
    return world


def _runs(world: World) -> pathlib.Path:
    (folder,) = (world.folder / "runs").iterdir()
    return folder


def _bytes(world: World) -> dict[str, str]:
    """Digests of all that a run must repeat to the bit: predictions and the curve."""
    folder = _runs(world)
    files = [*folder.rglob("*.parquet"), *folder.rglob("metrics.jsonl")]
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def _logged(run: pathlib.Path) -> dict[str, list[tuple[int, float]]]:
    """Returns the curves of a run from its log, as float32."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        for name, value in line.items():
            if name != "step":
                found.setdefault(name, []).append((line["step"], float(np.float32(value))))
    return found


def _curves(run: pathlib.Path) -> dict[str, list[tuple[int, float]]]:
    """Returns the curves of a run as TensorBoard reads them."""
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {name: [(point.step, point.value) for point in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_every_trial_and_seed_is_run_and_measured(trained):
    folder = _runs(trained)
    names = {f"{head}/{run}" for head in ("linear", "mam") for run in ("trial-0", "trial-1", "seed-0", "seed-1")}
    assert {str(p.parent.relative_to(folder)) for p in folder.rglob("result.json")} == names
    for head in ("linear", "mam"):
        trials = [storage.read_json(f"{folder}/{head}/trial-{i}/result.json") for i in range(2)]
        best = max(trials, key=lambda trial: trial["accuracy"]["all"])
        for seed in (0, 1):
            result = storage.read_json(f"{folder}/{head}/seed-{seed}/result.json")
            assert result["setting"] == best["setting"]
            table = schemas.read(f"{folder}/{head}/seed-{seed}/predictions.parquet", ["label", "predicted"])
            assert table.num_rows == SPLITS["test"]
            right = np.mean(table["label"].to_numpy() == table["predicted"].to_numpy())
            assert result["accuracy"]["all"] == right
            lines = (folder / head / f"seed-{seed}/metrics.jsonl").read_text().splitlines()
            assert [json.loads(line)["step"] for line in lines] == [10, 20, 24]
            assert _curves(folder / head / f"seed-{seed}") == _logged(folder / head / f"seed-{seed}")
    attention = schemas.read(f"{folder}/mam/seed-0/predictions.parquet", ["attention"])["attention"]
    np.testing.assert_allclose(schemas.to_matrix(attention).sum(-1), 1, rtol=1e-5)


def test_selection_never_sees_test(trained):
    trials = [storage.read_json(str(path)) for path in _runs(trained).rglob("trial-*/result.json")]
    assert len(trials) == 4 and {trial["split"] for trial in trials} == {"val"}
    assert not list(_runs(trained).rglob("trial-*/predictions.parquet"))


def test_a_second_run_trains_nothing(trained, capsys):
    before = {path: path.stat().st_mtime_ns for path in _runs(trained).rglob("result.json")}
    assert train.main(_argv(trained)) == 0
    assert {path: path.stat().st_mtime_ns for path in _runs(trained).rglob("result.json")} == before
    printed = capsys.readouterr()
    assert "best of 2" in printed.out
    # All was done before: no rate is made of it.
    assert "/s" not in printed.err


def test_the_summary_ends_with_figures_of_test(trained, capsys):
    assert train.main(_argv(trained)) == 0
    lines = capsys.readouterr().out.splitlines()
    place = next(i for i, line in enumerate(lines) if line.startswith("Test accuracy, %"))
    assert lines[place + 1].split() == ["head", "many", "medium", "few", "all", "over", "linear"]
    means = {}
    for head, line in zip(("linear", "mam"), lines[place + 2 :], strict=True):
        results = [storage.read_json(f"{_runs(trained)}/{head}/seed-{seed}/result.json") for seed in (0, 1)]
        reached = [100 * result["accuracy"]["all"] for result in results]
        means[head] = np.mean(reached)
        assert line.split()[0] == head and f"{means[head]:.1f} ± {np.std(reached, ddof=1):.1f}" in line
        assert line.split()[-1] == "-" if head == "linear" else f"{means['mam'] - means['linear']:+.1f} [" in line


@pytest.mark.slow
def test_more_seeds_join_the_others_and_other_settings_get_a_folder_of_their_own(world):
    train.main(_argv(world, train__heads="linear"))
    before = _bytes(world)
    train.main(_argv(world, train__heads="linear", train__seeds="0,1,2"))
    after = _bytes(world)
    assert before.items() < after.items()
    train.main(_argv(world, train__heads="linear", train__tau="0.5"))
    assert len(list((world.folder / "runs").iterdir())) == 2


class _Stop(BaseException):
    pass


def test_an_interrupted_run_resumes_to_the_same_bits(world):
    config = _config(world)
    task = datasets.load(config.places, config.train)
    data = tables.load(task)
    setting = Setting(0.01, 0.1, 0.2)

    trainer = Trainer("mam", task, data, config.train)

    def stop(stop_at, step):
        if step == stop_at:
            raise _Stop

    results = []
    for name, stops in (("whole", ()), ("early", (10,)), ("twice", (10, 20))):
        folder = str(world.folder / "runs" / name)
        for stop_at in stops:
            with pytest.raises(_Stop):
                train_loop.run(trainer, folder, setting, 3, "test", "h", functools.partial(stop, stop_at))
            assert not storage.exists(f"{folder}/result.json")
            with open(f"{folder}/metrics.jsonl", "a") as file:
                file.write('{"step": 99, "los')
        train_loop.run(trainer, folder, setting, 3, "test", "h", lambda _: None)
        assert _curves(pathlib.Path(folder)) == _logged(pathlib.Path(folder))
        results.append([pathlib.Path(folder, f).read_bytes() for f in ("predictions.parquet", "metrics.jsonl")])
    assert results[0] == results[1] == results[2]


@pytest.mark.slow
def test_a_memory_in_files_gives_the_same_results_and_resumes_to_the_same_bits(world, monkeypatch, capsys):
    argv = _argv(world, train__heads="mam,linear,vl_ltr", train__table="host", train__seeds="0")
    steps, calls = Trainer.steps, []

    def stopping(self, *args):
        calls.append(args)
        if len(calls) == 6:
            raise _Stop
        return steps(self, *args)

    monkeypatch.setattr(Trainer, "steps", stopping)
    with pytest.raises(_Stop):
        train.main(argv)
    assert train.main(argv) == 0
    assert "memory was read at" in (shown := capsys.readouterr().out) and "rows/s" in shown

    def of_run() -> tuple[pathlib.Path, list[str]]:
        (folder,) = (path for path in (world.folder / "runs").iterdir() if path.name != "tables")
        files = sorted([*folder.rglob("*.parquet"), *folder.rglob("metrics.jsonl")])
        return folder, [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]

    folder, resumed = of_run()
    result = storage.read_json(f"{folder}/mam/seed-0/result.json")
    assert set(result["reading"]) == {"rows_per_sec", "mb_per_sec", "waited_share"}
    assert "reading" not in storage.read_json(f"{folder}/linear/seed-0/result.json")
    shutil.rmtree(folder)
    assert train.main(argv) == 0
    assert of_run() == (folder, resumed)


_METHODS = [
    # mml needs texts in the space of the keys, which this world has none of.
    *({"train.heads": head} for head in registry.HEADS if head != "mml"),
    {"train.heads": "mam", "train.start_at_names": "true"},
    *({"train.heads": "linear", "train.loss": loss} for loss in objectives.OBJECTIVES if loss != "lace"),
    {"train.heads": "vl_ltr", "train.loss": "mile"},
    {"train.heads": "mam", "train.loss": "paco", "train.random_k": "true", "train.k": "3"},
]


@pytest.mark.slow
@pytest.mark.parametrize("method", _METHODS, ids=lambda method: "-".join(method.values()))
def test_every_head_and_loss_resumes_to_the_same_bits(world, monkeypatch, method):
    settings = {
        "train.learning_rates": "0.01",
        "train.seeds": "0",
        "train.paco.queue": "40",
        "train.mile.teacher_steps": "7",
        "train.mile.student_steps": "6",
        "train.curriculum.starts": "0.3,0.6",
    }
    head = registry.get(method["train.heads"])
    # One setting of each axis of the head, so that it has one trial.
    space = {name: values[-1] for name, values in head.space.items()}
    space |= {"k": 0, "similarity": "cosine", "value_scale": 0}
    settings["train.space"] = ",".join(f"{name}={str(value).lower()}" for name, value in space.items())
    argv = _argv(world, **settings, **method, class_names=str(world.name_classes()))
    steps, calls = Trainer.steps, []
    # The trial is stopped after its first checkpoint, the seed after its second; a trial of a head that steps do not
    # train is one step, so its seed is stopped after each.
    stops, expected = ((2, 6), 8) if head.trained else ((3, 5), 6)

    def stopping(self, *args):
        calls.append(args)
        if len(calls) in stops:
            raise _Stop
        return steps(self, *args)

    monkeypatch.setattr(Trainer, "steps", stopping)
    for _ in stops:
        with pytest.raises(_Stop):
            train.main(argv)
    assert train.main(argv) == 0
    resumed = _bytes(world)
    assert len(calls) == expected and len(resumed) == 3
    shutil.rmtree(world.folder / "runs")
    monkeypatch.setattr(Trainer, "steps", steps)
    assert train.main(argv) == 0
    assert _bytes(world) == resumed
    lines = [json.loads(line) for line in (_runs(world) / method["train.heads"] / "seed-0/metrics.jsonl").open()]
    assert [line["step"] for line in lines] == [10, 20, 24]
    # Texts of this world name no class, so that votes have nothing to learn.
    assert len({line["loss"] for line in lines}) == (1 if head.name == "knn_vote" else 3)


@pytest.mark.slow
def test_sigkill_then_the_same_command_gives_the_same_bytes(trained, world):
    expected = _bytes(trained)
    argv = [sys.executable, "-m", "model.train", *_argv(world)]
    for wanted in (1, 4):
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=os.getcwd())
        deadline = time.monotonic() + 120
        while process.poll() is None and len(list(world.folder.glob("runs/*/*/*/checkpoints/*"))) < wanted:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert train.main(_argv(world)) == 0
    assert _bytes(world) == expected


def test_refusals_are_one_sentence(world, capsys):
    cases = [
        ({"train__heads": "linear,mamm"}, "unknown; did you mean 'mam'"),
        ({"train__loss": "lac"}, "unknown; did you mean 'lace'"),
        ({"train__values": "image"}, "the memory has no 'image' values"),
        ({"train__start": "warm"}, "unknown; known are random, similarity"),
        ({"train__table": "disk"}, "--config.train.table=disk: unknown; known are device, host"),
        ({"train__steps": "0"}, "--config.train.steps=0: must be at least 1"),
        ({"train__attention_dim": "-1"}, "attention_dim=-1: must be at least 0"),
        ({"train__seeds": ""}, "--config.train.seeds: must hold at least one value"),
        ({"train__attention_heads": "3"}, "must divide value_dim=8"),
        ({"train__learning_rates": "1e30", "train__heads": "linear"}, "the likely cause is the learning rate 1e+30"),
        ({"train__learning_rates": "-1"}, "--config.train.learning_rates=-1.0: must be at least 0"),
        ({"train__dropouts": "1"}, "--config.train.dropouts=1.0: must be at least 0 and less than 1"),
        ({"train__seeds": "0,0"}, "seeds=0,0: names a value twice"),
        ({"train__k": "8"}, "train.k=8: the lists of"),
        ({"train__heads": "rac", "train__values": "image"}, "values=image: rac reads texts; add text"),
        ({"train__loss": "ncr", "train__ncr.neighbors": "16"}, "neighbors=16: must be less than batch"),
        ({"workdir": str(world.folder / "nowhere")}, "run web-memory neighbors first"),
    ]
    for changes, sentence in cases:
        assert train.main(_argv(world, **changes)) == 2, sentence
        error = capsys.readouterr().err
        assert error.startswith("error: ") and sentence in error and error.count("\n") == 1, error


# Orbax leaves what else it has begun to read.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("change", slow.after(1, [{"layers": 2}, {"attention_dim": 6}]))
def test_a_checkpoint_of_another_shape_is_refused(world, change):
    config = _config(world)
    task, folder = datasets.load(config.places, config.train), str(world.folder / "runs" / "one")
    data = tables.load(task)

    def stop(step):
        if step:
            raise _Stop

    def run(train):
        train_loop.run(Trainer("mam", task, data, train), folder, Setting(0.01, 0.1, 0.0), 0, "val", "h", stop)

    with pytest.raises(_Stop):
        run(config.train)
    with pytest.raises(UserError, match=r"/checkpoints: cannot be read \(.+\); remove .*/one"):
        run(dataclasses.replace(config.train, **change))


@pytest.mark.slow
def test_heads_that_read_names_and_rows_train_and_resume(looked_up, tmp_path):
    world = looked_up.copy(tmp_path)
    names = world.name_classes()
    heads = ("lda", "knn_vote", "tip_adapter", "tip_adapter_f", "real_linear", "swat")
    changes = {"train__heads": ",".join(heads), "train__steps": "12", "train__seeds": "0", "train__trials": "2"}
    changes |= {"train__search": "halving"}
    argv = _argv(world, **changes, **{"class_names": str(names), "train.folds": "2"})
    assert train.main(argv) == 0
    before = {path: path.read_bytes() for path in _runs(world).rglob("seed-0/predictions.parquet")}
    assert {path.parts[-3] for path in before} == set(heads)
    assert list(_runs(world).rglob("fold-1/result.json"))
    for path in before:
        (path.parent / "result.json").unlink()
    assert train.main(argv) == 0
    assert {path: path.read_bytes() for path in before} == before
