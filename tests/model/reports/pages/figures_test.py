"""Figures of the pages, against right answers that are known."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from model.measures import metrics
from model.reports.pages import classes, composition, rows, training
from model.reports.runs import Run
from pipelines import concepts, schemas
from pipelines.manifest import Embeddings
from tests.world import World, write_captions


def test_classes_without_test_images_have_no_accuracy():
    right, labels = np.array([1.0, 0.5, 0.0, 1.0]), np.array([0, 0, 2, 2])
    found = classes.accuracies(right, labels, np.array([2, 0, 2]))
    assert found[[0, 2]].tolist() == [0.75, 0.5] and np.isnan(found[1])


def _runs(seeds):
    runs = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        predicted = rng.integers(3, size=(200, 1)).astype(np.int32)
        runs.append(Run("mam", seed, {}, predicted, rng.uniform(0.01, 1, (200, 1)).astype(np.float32), ""))
    return runs


def test_the_reliability_diagram_has_the_calibration_error():
    labels, (run,) = np.arange(200) % 3, _runs(1)
    bins = training.reliability([run], labels)
    gap = np.abs(bins[:, 1] - bins[:, 2]) @ bins[:, 0] / bins[:, 0].sum()
    expected = metrics.calibration_error(run.probabilities[:, 0], run.predicted == labels)
    assert gap == pytest.approx(expected) and bins[:, 0].sum() == 200


def test_the_reliability_of_seeds_is_put_together():
    labels = np.arange(200) % 3
    assert training.reliability(_runs(3), labels)[:, 0].sum() == 600


def test_rows_are_found_by_their_place_across_shards(tmp_path):
    world = World(tmp_path, 20).write()
    embeddings = Embeddings(f"{world.folder}/memory")
    assert classes.sources(embeddings, [0, 5, 6, 19]) == [
        ("00000", "0.jpg"),
        ("00000", "5.jpg"),
        ("00001", "6.jpg"),
        ("00002", "19.jpg"),
    ]


def test_rows_balance_and_kinds_of_rejects_have_examples(tmp_path):
    folder = f"{World(tmp_path, 20).write().folder}/memory"
    account = rows.account("memory", folder)
    assert rows.grid([account]).rows == [("memory", "20", "0", "0", "0", "20", "3")]
    marker = account.markers[0]
    values = [("tar", f"{n}.jpg", "decode", "CannotDecode" if n else "EmptyImage", "bad", False, 1) for n in range(6)]
    columns = [
        pa.array(column, field.type) for column, field in zip(zip(*values, strict=True), schemas.REJECTS, strict=True)
    ]
    table = pa.Table.from_arrays(columns, schema=schemas.REJECTS)
    schemas.write(f"{folder}/_rejects/{marker.name}.parquet", table, {"config_hash": marker.config_hash})
    marker = dataclasses.replace(marker, rows_in=marker.rows_in + 6, rows_rejected=6)
    account = dataclasses.replace(account, markers=[marker, *account.markers[1:]])
    assert rows.grid([account]).rows == [("memory", "26", "6", "0", "0", "20", "3")]
    many, one = rows.rejects([account])
    assert (many.reason, many.count, one.reason, one.count) == ("CannotDecode", 5, "EmptyImage", 1)
    assert [row["member"] for row in many.examples] == ["1.jpg", "2.jpg", "3.jpg"]


def test_rows_come_from_hosts_packages_and_files():
    urls = [
        "http://a.org/1?x",
        "https://A.org:80/2",
        "pkg:npm/%40a/b@1.2#one",
        "pkg:npm/%40a/b@1.2#two",
        None,
        "http://[",
    ]
    texts = pa.table({"url": urls, "source_shard": ["00000.tar"] * 6})
    assert composition.origins(texts).rows == [
        ("a.org", "2", "33.3"),
        ("pkg:npm/@a/b@1.2", "2", "33.3"),
        ("00000.tar", "1", "16.7"),
        ("http://[", "1", "16.7"),
    ]


def test_counts_of_captions_by_shot_group(tmp_path):
    write_captions(f"{tmp_path}/memory", [["a dog", "dogs", "cat", "cats and dogs", "x"]])
    (tmp_path / "names.txt").write_text("dog\ncat\n\u202ebird, avis\nmouse\n")
    (tmp_path / "config.py").write_text(
        "from configs.base import Config\n"
        "def get_config():\n"
        f"    return Config(workdir={str(tmp_path)!r}, class_names={str(tmp_path / 'names.txt')!r})\n"
    )
    snapshot, groups = Embeddings(f"{tmp_path}/memory").snapshot, np.array(["many", "few", "few"])
    assert composition.concepts(f"{tmp_path}/concepts", snapshot, groups) is None
    assert concepts.main([f"--config={tmp_path}/config.py", "--runner=FnApiRunner"]) == 0
    found = composition.concepts(f"{tmp_path}/concepts", snapshot, groups)
    assert found and found.rows == [
        ("all", "3", "1", "0", "2", "3"),
        ("many", "1", "0", "3", "3", "3"),
        ("few", "2", "1", "0", "1", "2"),
    ]
    assert found.notes[0].startswith("4 of 5 captions name a class")
    assert found.notes[1].startswith("no caption names: ") and "\u202e" not in found.notes[1]
    # Counts of another memory, or of fewer classes, are not shown.
    assert composition.concepts(f"{tmp_path}/concepts", "another", groups) is None
    assert composition.concepts(f"{tmp_path}/concepts", snapshot, np.repeat(groups, 2)) is None
