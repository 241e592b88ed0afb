"""The commands that compare trained heads, on runs that were written by hand and on runs of the trainer."""

import dataclasses
import json
import pathlib

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from configs.base import Config
from model import evaluate, report, train
from model.measures import filter_quality
from model.reports import result_tables, results, runs
from model.reports.grid import Grid
from model.training import run_files
from pipelines import options, schemas, storage
from pipelines.errors import UserError
from pipelines.manifest import Neighbors
from tests.world import PLAIN_TRIALS, SPLITS, World

_FLAGS = (
    "--config.train.heads=linear,mean_knn,mam",
    "--config.train.values=text",
    "--config.train.seeds=0,1",
    "--config.train.many_over=13",
    "--config.train.few_under=10",
)


def _argv(world: World, *more: str) -> list[str]:
    return [f"--config={world.config_file}", *_FLAGS, *more]


def _write_run(
    world: World, head: str, seed: int, predicted: np.ndarray, attention: np.ndarray | None = None, *more: str
) -> None:
    config = options.parse(_argv(world, *more), "")[0]
    lists = Neighbors.open(config.places.neighbors)
    frozen = run_files.identity(config.places, config.seed, config.train, lists.fingerprint)
    folder = pathlib.Path(frozen.folder) / head / f"seed-{seed}"
    test = lists.split("test")
    classes = (predicted[:, None] + np.arange(5)) % 5
    columns = {
        "query_id": test["query_id"],
        "label": test["label"],
        "predicted": pa.array(predicted.astype(np.int32)),
        "top_classes": schemas.fixed_list(classes, pa.field("", pa.list_(pa.int32(), 5))),
        "probabilities": schemas.fixed_list(
            np.tile([0.6, 0.1, 0.1, 0.1, 0.1], (len(classes), 1)), pa.field("", pa.list_(pa.float32(), 5))
        ),
    }
    if attention is not None:
        field = pa.field("", pa.list_(pa.float32(), attention.shape[1]))
        columns["attention"] = schemas.fixed_list(attention, field)
    path, config_hash = str(folder / "predictions.parquet"), run_files.config_hash(frozen)
    schemas.write(path, pa.table(columns), {"config_hash": config_hash, "head": head, "seed": str(seed)})
    digests = {"predictions_sha256": storage.sha256(path), "metrics_sha256": ""}
    result = {"head": head, "seed": seed, "config_hash": config_hash, "train_secs": 1.0 + seed, **digests}
    storage.write_json(str(folder / "result.json"), result)


def _load(config: Config) -> runs.Runs:
    lists = Neighbors.open(config.places.neighbors)
    frozen = run_files.identity(config.places, config.seed, config.train, lists.fingerprint)
    return runs.load(frozen, config.train, config.finetune, lists)


LABELS = np.arange(SPLITS["test"]) % 5


def _write_runs(world: World) -> None:
    """Linear is right about class 0 with seed 0 and about nothing with seed 1; mean_knn always; mam but for one."""
    wrong = (LABELS + 1) % 5
    near = Neighbors.open(f"{world.folder}/neighbors")
    ids = schemas.to_matrix(near.split("test")["neighbor_ids"])
    memory = near.memory(["id", "label"])
    labels = memory["label"].to_numpy()[np.searchsorted(memory["id"].to_numpy(), ids)]
    relevant = labels == LABELS[:, None]
    even = np.full(ids.shape, 1 / 7, np.float32)
    sharp = relevant / np.maximum(relevant.sum(1, keepdims=True), 1)
    _write_run(world, "linear", 0, np.where(LABELS == 0, 0, wrong))
    _write_run(world, "linear", 1, wrong)
    for seed in (0, 1):
        _write_run(world, "mean_knn", seed, LABELS, even)
        _write_run(world, "mam", seed, np.where(np.arange(len(LABELS)) == 32, wrong, LABELS), sharp[:, :5])


def _evaluate(world: World, *more: str) -> dict:
    assert evaluate.main(_argv(world, *more)) == 0
    return json.loads((world.folder / "results.json").read_text())


def test_the_heads_are_ordered_by_what_their_settings_are_chosen_by(world):
    _write_runs(world)
    folder = pathlib.Path(_evaluate(world)["runs"])
    note = {"number": 0, "point": {}, "trials": 1}
    # mam is better on few-shot classes; the run of mean_knn is of an older version, which wrote no score.
    for head, more in {
        "linear": {"val_accuracy": 0.6, "val_score": 0.4},
        "mean_knn": {"val_accuracy": 0.3},
        "mam": {"val_accuracy": 0.5, "val_score": 0.45},
    }.items():
        storage.write_json(str(folder / head / "chosen.json"), {**note, **more})
    results = _evaluate(world)
    assert results["val"] == {"mam": 0.45, "linear": 0.4, "mean_knn": 0.3}
    assert list(run_files.scores(str(folder), ["linear", "mean_knn", "mam"])) == ["mam", "linear", "mean_knn"]
    table = result_tables.grids(results)[0]
    shown = {row[0]: row[table.columns.index("val")] for row in table.rows}
    assert shown == {"linear": "40.0", "mean_knn": "30.0", "mam": "45.0"}


def test_figures_of_runs_whose_errors_are_known(world, capsys):
    _write_runs(world)
    results = _evaluate(world)
    count = len(LABELS)
    of_zero = (LABELS == 0).sum()
    methods = results["methods"]
    assert methods["linear"]["all"]["mean"] == pytest.approx(of_zero / count / 2)
    assert methods["linear"]["all"]["std"] == pytest.approx(of_zero / count / np.sqrt(2))
    # 14 training images of each class: all are many-shot.
    assert methods["linear"]["many"]["mean"] == pytest.approx(1 / 5 / 2)
    assert methods["linear"]["few"] == methods["mam"]["medium"] == {"mean": None, "std": None}
    assert methods["mean_knn"]["all"] == {"mean": 1, "std": 0}
    assert methods["mean_knn"]["ece"]["mean"] == pytest.approx(0.4)
    assert methods["linear"]["top5"]["mean"] == 1
    assert {(row["method"], row["seed"]) for row in results["rows"]} == {
        (head, seed) for head in ("linear", "mean_knn", "mam") for seed in (0, 1)
    }
    assert [row["train_secs"] for row in results["rows"]] == [1, 2] * 3
    found = {(d["method"], d["reference"], d["column"]): d for d in results["differences"]}
    assert found.keys() == {
        (head, reference, column)
        for head, reference in [
            ("mean_knn", "linear"),
            ("mam", "linear"),
            ("linear", "mean_knn"),
            ("mam", "mean_knn"),
        ]
        for column in ("many", "all")
    }
    whole = found["mam", "mean_knn", "all"]
    assert whole["difference"] == pytest.approx(-1 / count)
    assert -4 / count <= whole["low"] < whole["difference"] < whole["high"] == 0
    printed = capsys.readouterr().out
    assert "100.0 ± 0.0" in printed and "-3.0 [-9.1, +0.0]" in printed and "results-" in printed


def test_test_images_that_train_has_are_said(tmp_path, capsys):
    world = World(tmp_path)
    for place in range(12):
        world.query_images["test"][place] = world.query_images["train"][3 * place]
    assert world.write().build() == 0 and world.neighbors() == 0
    _write_runs(world)
    sentence = "12 of the 33 test images (36.4%) are also in train, byte for byte; remove them from train"
    assert _evaluate(world)["warnings"] == [sentence]
    assert f"warning: {sentence}" in " ".join(capsys.readouterr().out.split())


def test_the_filter_is_judged_by_the_labels_of_the_memory(world):
    _write_runs(world)
    results = _evaluate(world)["filter"]
    assert set(results["methods"]) == {"mean_knn", "mam"}
    even, sharp = results["methods"]["mean_knn"], results["methods"]["mam"]
    assert even["mass_over_share"] == pytest.approx(1) and even["auc"] == even["auc_pooled"] == 0.5
    assert sharp["auc"] == sharp["auc_pooled"] == 1 and sharp["mass_over_share_per_query"] > 1.5
    config = options.parse(_argv(world), "")[0]
    lists = filter_quality.Lists.load(Neighbors.open(config.places.neighbors), "test", ["no"] * 5)
    assert results["lists"] == filter_quality.describe(lists, config.train.similarity_scale)
    assert 0 < results["lists"]["share"] < 1


def test_the_same_captions_that_name_the_class_are_relevant(world):
    """Captions are `row N`, so a class of that name is named by one row of each shard."""
    lists = Neighbors.open(f"{world.folder}/neighbors")
    names = [f"row {number}" for number in range(5)]
    marked = filter_quality.Lists.load(lists, "test", names)
    memory = lists.memory(["id", "caption", "label"])
    rows = np.searchsorted(memory["id"].to_numpy(), schemas.to_matrix(lists.split("test")["neighbor_ids"]))
    for query, label in enumerate(LABELS):
        near = memory.take(rows[query]).to_pylist()
        expected = [row["label"] == label or row["caption"] == names[label] for row in near]
        assert marked.relevant[query].tolist() == expected


def test_classes_on_a_bound_are_in_another_group_by_the_other_convention(world):
    _write_runs(world)
    config = options.parse(_argv(world), "")[0]
    found = _load(config)
    on_bound = dataclasses.replace(config.train, many_over=14)
    row = results.measure(found, on_bound)[0]
    assert row["many"] is None and row["medium"] == row["many_oltr"] == 0.2
    assert row["medium_oltr"] is None
    other = dataclasses.replace(on_bound, shots="oltr")
    row = results.measure(found, other)[0]
    assert row["many"] == row["medium_decoupling"] == 0.2 and row["medium"] is None


@pytest.mark.slow
def test_zero_shot_has_one_trial_and_is_a_line_to_beat(world, monkeypatch, capsys):
    monkeypatch.setattr("model.reports.gallery.write", lambda path, *_: Image.new("RGB", (3, 2), "red").save(path))
    flags = (
        f"--config.class_names={world.name_classes()}",
        *(f"--config.{name}={value}" for name, value in PLAIN_TRIALS.items()),
        "--config.train.heads=linear,mam,zero_shot",
        "--config.train.steps=4",
        "--config.train.batch_size=16",
        "--config.train.learning_rates=0.01,0.03",
    )
    assert train.main(_argv(world, *flags)) == 0
    config = options.parse(_argv(world, *flags), "")[0]
    lists = Neighbors.open(config.places.neighbors)
    folder = run_files.identity(config.places, config.seed, config.train, lists.fingerprint).folder
    tried = {head: len(list(pathlib.Path(folder, head).glob("trial-*"))) for head in config.train.heads}
    # Two learning rates and two dropouts.
    assert tried == {"linear": 4, "mam": 4, "zero_shot": 1}
    capsys.readouterr()
    results = _evaluate(world, *flags)
    assert "Points over zero_shot" in capsys.readouterr().out
    assert {row["method"] for row in results["differences"] if row["reference"] == "zero_shot"} == {"linear", "mam"}
    # The names of `World.name_classes`, in the space of the keys.
    keys, queries = schemas.read(config.places.classes, ["key"])["key"], world.queries["test"].astype(np.float64)
    predicted = (queries @ schemas.to_matrix(keys).astype(np.float64).T).argmax(1)
    labels = lists.split("test")["label"].to_numpy()
    assert results["methods"]["zero_shot"]["all"] == {"mean": pytest.approx((predicted == labels).mean()), "std": 0}
    assert report.main(_argv(world, *flags)) == 0
    assert "Points over zero_shot" in (world.folder / "report/index.html").read_text()


def test_runs_with_other_embedded_names_are_other_runs(world):
    config = options.parse(_argv(world), "")[0]

    def folder() -> str:
        return run_files.identity(config.places, config.seed, config.train, "lists").folder

    without = folder()
    world.name_classes()
    named, table = folder(), schemas.read(config.places.classes, ["label", "name", "key"])
    schemas.write(config.places.classes, table, {"config_hash": "other prompts"})
    assert len({without, named, folder()}) == 3


def test_markdown_is_the_same_tables(world, capsys):
    _write_runs(world)
    _evaluate(world)
    capsys.readouterr()
    _evaluate(world, "--markdown")
    printed = capsys.readouterr().out
    assert printed.count("| --- |") == 4
    assert "| mean_knn | 100.0 ± 0.0 | - | - | 100.0 ± 0.0 | 100.0 ± 0.0 | 40.0 ± 0.0 | - | 1.5 s |" in printed


def test_the_classes_that_the_other_convention_moves_are_told(world, capsys):
    flags = ("--config.train.many_over=14", "--config.train.heads=linear", "--config.train.seeds=0")
    _write_run(world, "linear", 0, LABELS, None, *flags)
    results = _evaluate(world, *flags)
    assert results["classes_per_group"] == {"decoupling": [0, 5, 0], "oltr": [5, 0, 0]}
    assert results["moved_classes"] == {"decoupling": 0, "oltr": 5}
    assert (
        "The groups by the oltr convention, which moves 5 of 5 classes: 5/0/0 many-, medium- and few-shot classes "
        "instead of 0/5/0"
    ) in " ".join(capsys.readouterr().out.split())


def test_published_figures_stand_beside_ours_with_encoder_and_source(world, capsys):
    _write_runs(world)
    encoders = ("--config.encoders.key=a/key", "--config.encoders.value_text=b/text,large=c/large")
    argv = _argv(world, "--config.protocol.name=places_lt", "--published", "--markdown", *encoders)
    assert evaluate.main(argv) == 0
    printed = capsys.readouterr().out
    table = printed[printed.index("Test accuracy on places_lt") :]
    assert "| mean_knn | a/key; values b/text | 100.0 ± 0.0 | 100.0 ± 0.0 | - | - | this run |" in table
    assert "| linear | a/key | " in table
    assert "| mam | ViT-B/16; values ViT-G/14, T5 | 49.9 | 50.9 | 49.9 | 47.5 | Iscen et al., CVPR 2023 |" in table
    assert "| LIFT | CLIP ViT-L/14, AdaptFormer | 53.7 | - | - | - |" in table
    _evaluate(world)
    assert "Iscen" not in capsys.readouterr().out
    assert evaluate.main(_argv(world, "--published")) == 2
    said = capsys.readouterr().err
    assert (
        "nothing is published for this protocol (--config.protocol.name=), only for those of configs/imagenet_lt.py"
        in said
    )


def test_results_of_other_settings_do_not_replace_each_other(world, capsys):
    _write_runs(world)
    first = _evaluate(world)
    (path,) = world.folder.glob("runs/*/results-*.json")
    bytes_of_first = path.read_bytes()
    assert json.loads(bytes_of_first) == first
    others = ["--config.train.seeds=0"], ["--config.train.heads=mam"], ["--config.train.heads=mam,linear"]
    written = [_evaluate(world, *flags) for flags in others]
    assert path.read_bytes() == bytes_of_first
    kept = [json.loads(one.read_text()) for one in world.folder.glob("runs/*/results-*.json")]
    assert len(kept) == 4 and all(one in kept for one in (first, *written))
    assert list(written[1]["methods"]) == ["mam"] and written[0]["methods"]["linear"]["all"]["std"] is None
    # The same settings have the same file.
    capsys.readouterr()
    assert _evaluate(world) == first and path.read_bytes() == bytes_of_first
    assert f"wrote {path}" in " ".join(capsys.readouterr().out.split())
    assert len([*world.folder.glob("runs/*/results-*.json")]) == 4


def test_a_grid_has_a_cell_for_each_column():
    grid = Grid("title", ("a", "b"), [("x", "1"), ("y", "2")])
    assert grid.markdown() == "title\n\n| a | b |\n| --- | --: |\n| x | 1 |\n| y | 2 |\n"


def test_a_run_that_is_missing_or_of_other_images_is_refused(world, capsys):
    _write_runs(world)
    assert evaluate.main(_argv(world, "--config.train.seeds=0,1,2")) == 2
    assert "linear/seed-2/result.json: does not exist; run web-memory train" in capsys.readouterr().err
    (path,) = world.folder.glob("runs/*/mam/seed-1/predictions.parquet")
    table = schemas.read(str(path), ["query_id", "top_classes", "probabilities"])
    result = storage.read_json(str(path.parent / "result.json"))
    origin = {"head": "mam", "seed": "1", "config_hash": result["config_hash"]}
    schemas.write(str(path), table.slice(1), origin)
    config = options.parse(_argv(world), "")[0]
    with pytest.raises(UserError, match="seed-1/predictions.parquet: is damaged or of another run"):
        _load(config)
    storage.write_json(str(path.parent / "result.json"), {**result, "predictions_sha256": storage.sha256(str(path))})
    with pytest.raises(UserError, match="seed-1/predictions.parquet: has other test images"):
        _load(config)
    storage.copy(str(path.parent.parent / "seed-0/result.json"), str(path.parent / "result.json"))
    with pytest.raises(UserError, match="seed-1/result.json: is of another run, seed was 0 and is now 1; remove"):
        _load(config)


@pytest.mark.slow
def test_what_the_trainer_writes_is_what_is_read(world, monkeypatch, capsys):
    flags = _argv(world, "--config.train.steps=4", "--config.train.learning_rates=0.01", "--config.train.batch_size=16")
    assert train.main(flags) == 0
    monkeypatch.setattr("model.reports.gallery.write", lambda path, *_: Image.new("RGB", (3, 2), "red").save(path))
    assert report.main(flags) == 0
    results = json.loads((world.folder / "results.json").read_text())
    for row in results["rows"]:
        (path,) = world.folder.glob(f"runs/*/{row['method']}/seed-{row['seed']}/result.json")
        result = json.loads(path.read_text())
        assert row["all"] == result["accuracy"]["all"] and row["many"] == result["accuracy"]["many"]
        assert (row["top5"], row["ece"]) == (result["top5"], result["ece"])
    assert results["filter"]["methods"]["mean_knn"]["mass_over_share"] == pytest.approx(1, abs=1e-6)
    assert "<h1>" in (world.folder / "report/index.html").read_text()
    # The world has neither class names nor images.
    assert "class 4" in (world.folder / "report/classes.html").read_text()
    events = EventAccumulator(str(world.folder / "tensorboard"))
    events.Reload()
    (picture,) = events.Images("gallery/mam")
    assert (picture.width, picture.height) == (3, 2)
    assert "recall@5 of the index" in capsys.readouterr().out
    assert report.main([*flags, "--config.protocol.train_rows=1000000"]) == 2
    assert "than the 1,000,000 of the protocol" in capsys.readouterr().err
