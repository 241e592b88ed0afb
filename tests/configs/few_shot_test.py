"""The few-shot sets of SWAT: the counts of each split, and a memory of images that were found by class name."""

import json
import pathlib

import numpy as np
import pytest

from configs.base import Config, Protocol
from index import build, neighbors
from model import evaluate, train
from pipelines import embed, options, schemas
from pipelines.errors import UserError
from tests.pipelines import tiny_encoders as tiny


def _config(settings: str) -> Config:
    return options.parse([f"--config=configs/few_shot.py:{settings}"], "")[0]


def test_published_counts_of_the_few_shot_sets():
    """Images of the 16-shot list, of its held-out quarter and of the test list."""
    counts = {
        "semi-aves": (200, 3_199, 800, 8_000),
        "fgvc-aircraft": (100, 1_600, 400, 3_333),
        "eurosat": (10, 160, 40, 8_100),
        "dtd": (47, 752, 188, 1_692),
        "stanford_cars": (196, 3_136, 784, 8_041),
        "food101": (101, 1_616, 404, 30_300),
        "flowers102": (102, 1_632, 408, 2_463),
        "oxford_pets": (37, 592, 148, 3_669),
        "imagenet": (1_000, 16_000, 4_000, 50_000),
    }
    for name, (num_classes, images, held_out, test) in counts.items():
        sizes = (11 if name == "semi-aves" else 12, 12)
        rows = (images - held_out, held_out, test, images)
        expected = Protocol(*rows, num_classes, images_per_class=sizes, name=f"few_shot/{name}/16")
        assert _config(f"dataset={name}").protocol == expected
        few = _config(f"dataset={name},shots=4,seed=3")
        rows = (3 * num_classes, num_classes, test, 4 * num_classes)
        assert few.protocol == Protocol(*rows, num_classes, images_per_class=(3, 3), name=f"few_shot/{name}/4")
        assert few.train_set.path == f"few_shot/{name}/fewshot4_seed3.txt" == few.val_set.path
    assert len({_config(f"dataset={name},seed={seed}").workdir for name in counts for seed in (1, 2)}) == 18


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("dataset=birds", "dataset=birds must be one of semi-aves, fgvc-aircraft, eurosat, .*imagenet"),
        ("shots=5", "shots=5 must be one of 4, 8, 16"),
        ("shots=few", "shots=few: must be of type int"),
        ("shot=4", "'shot=4' is no setting=value of this config; its settings are dataset, shots, seed"),
    ],
)
def test_a_split_that_does_not_exist_is_refused(settings, said):
    with pytest.raises(UserError, match=rf"^--config=configs/few_shot.py:{settings}: {said}"):
        _config(settings)
    with pytest.raises(UserError, match="'a=1' is no setting=value of this config; it takes no settings"):
        options.parse(["--config=configs/cub.py:a=1"], "")


def _write(root: pathlib.Path) -> None:
    """Two classes of DTD with four shots each, and four images that were found by the name of each class."""
    folder = root / "few_shot/dtd"
    lists = {"fewshot4_seed1": ("dtd/images", 8, 1), "test": ("dtd/test", 6, 1), "T2T500": ("found", 8, 0)}
    for number, (name, (place, count, source)) in enumerate(lists.items()):
        paths = [f"{place}/{i}.jpg" for i in range(count)]
        for i, path in enumerate(paths):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(tiny.image_bytes(100 * number + i))
        (folder / f"{name}.txt").write_text("\n".join(f"{path} {i % 2} {source}" for i, path in enumerate(paths)))
    for i in range(8):
        copy = root / f"by_name/{('banded', 'blotchy')[i % 2]}/{i}.jpg"
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((folder / f"found/{i}.jpg").read_bytes())
    (folder / "classnames.txt").write_text("banded\nblotchy\n")
    tiny.save_image_encoder(root / "image")
    tiny.save_text_encoder(root / "text")


_MEMORIES = {
    "list": ("format=swat", "path=few_shot/dtd/T2T500.txt", "class_names=few_shot/dtd/classnames.txt"),
    "folders": ("format=image_folder", "path=by_name"),
}


@pytest.mark.slow
@pytest.mark.parametrize("memory", _MEMORIES)
def test_a_memory_of_images_found_by_class_name(tmp_path, capsys, memory):
    """A list or a folder a class; rows have the label and the name of the class that they were found for."""
    _write(tmp_path)
    flags = [
        *(f"data={tmp_path}", f"workdir={tmp_path}/out", *(f"memory.{flag}" for flag in _MEMORIES[memory])),
        *(["memory.image_root=few_shot/dtd"] if memory == "list" else []),
        *(f"encoders.{name}={tmp_path}/{kind}" for name, kind in (("key", "image"), ("value_text", "text"))),
        *("protocol.train_rows=6", "protocol.val_rows=2", "protocol.test_rows=6", "protocol.train_val_rows=8"),
        *("protocol.classes=2", "encoders.value_image=", "filters.leakage=0", "index.searcher=exact"),
        *("index.k=8", "neighbors.k=8", "train.k=0", "train.values=text", "train.heads=linear,mam"),
        *("train.steps=2", "train.batch_size=2", "train.trials=1", "train.attention_dim=2", "train.value_dim=2"),
        "train.seeds=0",
    ]
    argv = ["--config=configs/few_shot.py:dataset=dtd,shots=4", *(f"--config.{flag}" for flag in flags)]
    for stage in (embed.main, build.main, neighbors.main, train.main, evaluate.main):
        assert stage(argv) == 0, capsys.readouterr().err
    (file,) = (tmp_path / "out/memory").glob("*.parquet")
    rows = schemas.read(str(file), ["member", "label", "caption"]).to_pylist()
    assert len(rows) == 8
    for row in rows:
        number = int(pathlib.Path(row["member"]).stem)
        assert (row["label"], row["caption"]) == (number % 2, ("banded", "blotchy")[number % 2])
    # Half of the neighbours of each test image, all of which are listed, are of its class.
    lists = json.loads((tmp_path / "out/results.json").read_text())["filter"]["lists"]
    assert lists["queries"] == lists["queries_with_relevant"] == 6 and np.isclose(lists["share"], 0.5)
