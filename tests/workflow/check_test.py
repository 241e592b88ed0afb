"""The check command on a small corpus: what it counts, what it finds, and that it leaves the workdir alone."""

import hashlib
import json
import pathlib
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipelines import tiny_encoders as tiny
from workflow import check

_CLASSES = ("cat", "dog", "red")


class _World:
    """Two tars of 7 pairs, and folders of classes: 9 images of train, 3 of val, 3 of test."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        for shard in range(2):
            pairs = [(f"{shard}{i:04d}", tiny.image_bytes(10 * shard + i), f"a {_CLASSES[i % 3]}") for i in range(7)]
            tiny.write_tar(root / f"pairs/{shard:05d}.tar", pairs)
        for split, count in (("train", 3), ("val", 1), ("test", 1)):
            for number, name in enumerate(_CLASSES):
                (root / split / name).mkdir(parents=True)
                for i in range(count):
                    file = root / split / name / f"{i}.png"
                    file.write_bytes(tiny.image_bytes(len(split) * 100 + 10 * number + i))
        (root / "config.py").write_text("from configs.base import Config\ndef get_config():\n    return Config()\n")
        self.flags = {
            "data": root,
            "workdir": root / "out",
            "memory.path": "pairs/*.tar",
            **{f"{split}_set.format": "image_folder" for split in ("train", "val", "test")},
            **{f"{split}_set.path": split for split in ("train", "val", "test")},
            "encoders.key": root / "image",
            "encoders.value_image": "",
            "encoders.value_text": root / "text",
            "embed.batch_size": 4,
            "index.k": 3,
            "neighbors.k": 3,
            "train.k": 3,
            "train.values": "text",
        }

    def check(self, **changes: object) -> int:
        flags = self.flags | {name.replace("__", "."): value for name, value in changes.items()}
        return check.main([f"--config={self.root}/config.py", *(f"--config.{k}={v}" for k, v in flags.items())])

    def files(self) -> dict[str, str]:
        paths = sorted(path for path in self.root.rglob("*") if path.is_file())
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    tiny.save_image_encoder(root / "image")
    tiny.save_text_encoder(root / "text")
    return _World(root)


@pytest.fixture
def world(made, tmp_path):
    shutil.copytree(made.root, tmp_path / "copy")
    world = _World.__new__(_World)
    world.root = tmp_path / "copy"
    world.flags = {
        name: str(value).replace(str(made.root), str(world.root)) if "/" in str(value) else value
        for name, value in made.flags.items()
    }
    return world


def test_nothing_stands_in_the_way_and_nothing_is_written(world, capsys):
    before = world.files()
    assert world.check() == 0
    assert world.files() == before and not (world.root / "out").exists()
    printed = capsys.readouterr()
    said = dict(line.split(maxsplit=1) for line in printed.out.splitlines()[1:5])
    assert said["memory"] == "about 14 rows, 2 shards, 14 of the first 14 readable"
    assert said["train"] == "9 rows, 1 shard, 3 classes, 9 of the first 9 readable"
    assert said["val"] == said["test"] == "3 rows, 1 shard, 3 classes, 3 of the first 3 readable"
    assert "nothing stands in the way; web-memory run does the work" in printed.out and not printed.err
    assert "29 rows" in printed.out and "15 lists of 3" in printed.out


def test_rows_that_img2dataset_stated_are_exact(world, capsys):
    for shard, count in ((0, 1000), (1, 500)):
        (world.root / f"pairs/{shard:05d}_stats.json").write_text(json.dumps({"successes": count}))
    assert world.check() == 0
    assert "1,500 rows, 2 shards, 14 of" in capsys.readouterr().out


def test_every_problem_is_a_sentence(world, capsys):
    assert world.check(embed__batch_size=0, index__k=0, train__seeds="1,1") == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors == [
        "error: --config.embed.batch_size=0: must be at least 1",
        "error: --config.index.k=0: must be at least 1",
        "error: --config.train.seeds=1,1: names a value twice",
        "error: 3 problems stand in the way, see above",
    ]
    shutil.rmtree(world.root / "test")
    (world.root / "val/bird").mkdir()
    shutil.copy(world.root / "val/cat/0.png", world.root / "val/bird/0.png")
    assert world.check(train__k=4) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[0] == "error: --config.train.k=4: is more than --config.neighbors.k=3, the length of the lists"
    assert errors[1].startswith(f"error: {world.root}/val (val): ") and "'bird'" in errors[1]
    assert errors[2].startswith(f"error: --config.test_set: {world.root}/test: ")
    assert errors[3] == "error: 3 problems stand in the way, see above" and not (world.root / "out").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"protocol__test_rows": 4}, "names 3 images for test, 1 fewer than the 4 of the protocol"),
        ({"protocol__train_val_rows": 13}, "names 12 images for train and val, 1 fewer than the 13 of the protocol"),
        ({"protocol__classes": 2}, "has 3 classes, the protocol 2; get the published list"),
        (
            {"protocol__images_per_class": "1,3"},
            "has 3 and 3 images in its smallest and its largest class, the protocol",
        ),
    ],
)
def test_lists_of_another_protocol_are_a_problem(world, capsys, flags, said):
    assert world.check(**flags) == 2
    assert said in " ".join(capsys.readouterr().err.split())


_GAP = "labels begin with 1; set first_label=1 of every source whose labels do, such as --config.train_set.first_label"
_FROM_1 = {f"{source}.first_label": 1 for source in ("memory", "train_set", "val_set", "test_set")}


def _arrays(world, first=0, beyond=0):
    """Gives a world arrays of three classes; the last label of test is one larger by `beyond`."""
    rng = np.random.default_rng(0)
    for split, rows in (("memory", 20), ("train", 9), ("val", 3), ("test", 3)):
        (world.root / f"arrays/{split}").mkdir(parents=True)
        np.save(world.root / f"arrays/{split}/X.npy", rng.normal(size=(rows, 8)).astype(np.float32))
        labels = first + np.arange(rows) % 3
        labels[-1] += beyond if split == "test" else 0
        np.save(world.root / f"arrays/{split}/y.npy", labels)
        field = split if split == "memory" else f"{split}_set"
        world.flags |= {f"{field}.format": "vectors", f"{field}.path": f"arrays/{split}/X.npy"}
    world.flags |= {"encoders.key": "precomputed:mine", "encoders.value_image": "precomputed:mine"}
    world.flags |= {"encoders.value_text": "", "train.values": "image", "memory.fields": "value_image=key"}


def test_a_label_of_test_without_a_training_image_is_a_problem(world, capsys):
    _arrays(world, beyond=1)
    assert world.check() == 2
    said = "error: --config.train_set.path=arrays/train/X.npy: class 3 has no training image, and every label up to 3"
    assert said in capsys.readouterr().err


def test_a_label_below_0_is_no_bug(world, capsys):
    _arrays(world, beyond=-3)
    assert world.check(**{"embed.max_rejects_share": 0.9}) == 0
    assert "2 of the first 3 readable" in " ".join(capsys.readouterr().out.split())


def test_rows_of_a_part_of_parquet_are_estimated(world, capsys):
    columns = {"jpg": [tiny.image_bytes(i) for i in range(40)], "label": [i % 3 for i in range(40)]}
    pq.write_table(pa.table(columns), world.root / "all.parquet")
    flags = {}
    for split, part in (("train", "0.5,1"), ("val", "0,0.25"), ("test", "0.25,0.5")):
        source = {"format": "img2dataset_parquet", "path": "all.parquet", "part": part}
        flags |= {f"{split}_set.{name}": value for name, value in source.items()}
    world.check(**flags)
    said = " ".join(capsys.readouterr().out.split())
    assert all(rows in said for rows in ("train about 20 rows", "val about 10 rows", "test about 10 rows"))


@pytest.mark.parametrize("first", [1, 0])
def test_labels_of_arrays_that_begin_at_1_are_a_problem(world, capsys, first):
    _arrays(world, first)
    code, printed = world.check(), capsys.readouterr()
    assert "train 9 rows, 1 shard, 3 classes, 9 of the first 9 readable" in " ".join(printed.out.split())
    problems = [line for line in printed.err.splitlines() if _GAP in line]
    assert len(problems) == first and code == 2 * first, printed.err
    assert all(line.startswith("error: --config.train_set.path=arrays/train/X.npy: labels") for line in problems)
    assert not first or world.check(**_FROM_1) == 0


def test_labels_of_a_list_that_begin_at_1_are_a_problem(world, capsys):
    for first in (1, 0):
        for split, count in (("train", 3), ("val", 1), ("test", 1)):
            files = [
                f"{split}/{name}/{i}.png {number}" for number, name in enumerate(_CLASSES, first) for i in range(count)
            ]
            (world.root / f"{split}.txt").write_text("\n".join(files))
            world.flags |= {f"{split}_set.format": "image_list", f"{split}_set.path": f"{split}.txt"}
            world.flags[f"{split}_set.image_root"] = "."
        assert world.check() == 2 * first
        assert (f"error: --config.train_set.path=train.txt: {_GAP}" in capsys.readouterr().err) == bool(first)
        splits = {field: 1 for field in _FROM_1 if not field.startswith("memory")}
        assert not first or world.check(**splits) == 0


def test_rows_without_a_text_are_a_problem_if_embed_refuses_them(world, capsys):
    pairs = [(f"{i:04d}", tiny.image_bytes(i), "" if i < 2 else "a cat") for i in range(7)]
    tiny.write_tar(world.root / "pairs/00000.tar", pairs)
    one = {"memory.path": "pairs/00000.tar"}
    assert world.check(**one) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "--config.memory.path=pairs/00000.tar: 2 of its 7 rows cannot be used, such as 0000.jpg: there is no text"
        in said
    )
    assert "embed refuses more than --config.embed.max_rejects_share=0.2" in said
    assert world.check(**one, filters__min_caption_chars=1) == 0
    assert world.check(**one, embed__max_rejects_share=0.5) == 0


def test_images_that_cannot_be_read_are_a_problem_only_if_all_are(world, capsys):
    (world.root / "train/cat/0.png").write_bytes(b"\x89PNG no image")
    assert world.check() == 0
    assert "8 of the first 9 readable (such as cat/0.png: " in " ".join(capsys.readouterr().out.split())
    for path in (world.root / "val").rglob("*.png"):
        path.write_bytes(b"\x89PNG no image")
    assert world.check() == 2
    printed = capsys.readouterr().err
    assert "--config.val_set.path=val: none of its first 32 rows can be used, such as cat/0.png: " in printed
    assert printed.endswith("error: 1 problem stands in the way, see above\n")


def test_an_encoder_that_is_not_there_is_a_problem(world, capsys):
    assert world.check(encoders__key=world.root / "nothing") == 2
    assert f"{world.root}/nothing" in capsys.readouterr().err


def test_a_full_disk_is_a_problem_before_any_work(world, capsys):
    for shard in (0, 1):
        (world.root / f"pairs/{shard:05d}_stats.json").write_text(json.dumps({"successes": 10**13}))
    assert world.check(index__searcher="exact") == 2
    err = capsys.readouterr().err
    assert f"--config.workdir={world.root}/out: the stages write about " in err and "make room" in err


def test_a_filter_by_names_without_a_name_is_a_problem(world, capsys):
    (world.root / "names.txt").write_text("(cat)\n(dog)\n(red)\n")
    assert world.check(filters__concepts_per_class=3) == 0
    assert world.check(filters__concepts_per_class=3, class_names="names.txt") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "--config.filters.concepts_per_class: looks for the names of classes in captions, and there are none" in said
