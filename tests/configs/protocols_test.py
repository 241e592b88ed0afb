"""Each config of a protocol on a tiny replica of the files that its docstring names."""

import dataclasses
import json
import os
import pathlib
import re

import numpy as np
import pytest

from configs import few_shot
from configs.base import Config, Protocol
from index import build, neighbors
from model import sweep, train
from model.training import trials
from pipelines import embed, options, sources
from pipelines.embedding import classes, folders
from pipelines.embedding.request import Request
from pipelines.errors import UserError
from pipelines.schemas import EncoderInfo
from pipelines.sources import Sample
from tests.pipelines import tiny_encoders as tiny
from tests.pipelines.sources.listed import write_images

NAMES = (
    *("imagenet_lt", "places_lt", "inat21_mini", "webvision", "webvision_full", "webvision_mini"),
    *("tiny_imagenet_lt", "tiny_imagenet_noisy", "inat18", "few_shot", "cub"),
)


@dataclasses.dataclass
class _Encoder:
    info = EncoderInfo("encoder", 4, True, "float32")


def _list(path: pathlib.Path, names: list[str], labels: list[int], images: pathlib.Path | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name} {label}\n" for name, label in zip(names, labels, strict=True)))
    if images:
        write_images(images, *names)


def _imagenet_lt(root: pathlib.Path) -> None:
    for split, folder, labels in (("train", "train", [0, 0, 1]), ("val", "train", [0, 1]), ("test", "val", [1, 0])):
        names = [f"{folder}/n0144{label}764/ILSVRC2012_{split}_{i}.JPEG" for i, label in enumerate(labels)]
        _list(root / f"imagenet_lt/ImageNet_LT_{split}.txt", names, labels, root / "imagenet")


_PLACES = {
    "train": ["train/airfield/00000001.jpg", "train/airfield/00000002.jpg", "train/field-cultivated/00000003.jpg"],
    "val": ["train/airfield/00000004.jpg"],
    "test": ["val/field-cultivated/Places365_val_00000435.jpg"],
}


def _plain(name: str) -> str:
    """Returns a path as the plain downloads have it."""
    split, scene, file = name.split("/")
    return f"val_256/{file}" if split == "val" else f"data_256/{scene[0]}/{scene.replace('-', '/')}/{file}"


_STYLES = {"easy": str, "standard": "places365_standard/{}".format, "plain": _plain}


def _places_lt(root: pathlib.Path, listed: str = "easy", stored: str = "easy") -> None:
    for split, labels in (("train", [0, 0, 1]), ("val", [0]), ("test", [1])):
        names = [_STYLES[listed](name) for name in _PLACES[split]]
        _list(root / f"places_lt/Places_LT_{split}.txt", names, labels)
        write_images(root / "places365", *map(_STYLES[stored], _PLACES[split]))


def _inat21_mini(root: pathlib.Path) -> None:
    for name, images in (("train_mini", 100), ("val", 4)):
        files = [f"{name}/0000{i % 2}_Animalia_Chordata/{i}.jpg" for i in range(images)]
        data = {
            "images": [{"id": i, "file_name": file, "license": 0} for i, file in enumerate(files)],
            "categories": [{"id": i, "name": f"Species {i}", "common_name": f"Bird {i}"} for i in range(2)],
            "annotations": [{"id": i, "image_id": i, "category_id": i % 2} for i in range(images)],
            "licenses": [{"id": 0, "name": "CC BY-NC 4.0"}],
        }
        write_images(root / "inat21", *files)
        (root / f"inat21/{name}.json").write_text(json.dumps(data))


def _webvision(root: pathlib.Path) -> None:
    labels = [i % 52 for i in range(52 * 50)]
    for side in ("google", "flickr"):
        names = [f"{side}/q{label:04d}/{i}.jpg" for i, label in enumerate(labels)]
        _list(root / f"webvision/info/train_filelist_{side}.txt", names, labels)
        write_images(root / "webvision", names[0])
    names = [f"val{i:06d}.jpg" for i in range(52)]
    _list(root / "webvision/info/val_filelist.txt", names, labels[:52])
    write_images(root / "webvision/val_images_256", *names)


def _tiny(root: pathlib.Path) -> None:
    for split in ("train", "train_noisy40", "val", "test"):
        folder = split.removesuffix("_noisy40")
        names = [f"{folder}/n02843684/{folder}_{i}.JPEG" for i in range(3)]
        path = root / f"tiny_imagenet_lt/TinyImageNet_LT_{split}.txt"
        _list(path, names, [0, 1, int("noisy" in split)], root / "tiny_imagenet_lt/images")


def _inat18(root: pathlib.Path) -> None:
    folder = root / "iNaturalist2018"
    for split, count in (("train", 40), ("val", 4)):
        names = [f"train_val2018/Plantae/{i % 2}/{split}{i}.jpg" for i in range(count)]
        _list(folder / f"{split}.txt", names, [i % 2 for i in range(count)], folder)


def _few_shot(root: pathlib.Path, dataset: str = "semi-aves", few: str = "fewshot16_seed1", shots: int = 16) -> None:
    folder = root / "few_shot" / dataset
    for name, count in ((few, 2 * shots), ("test", 4)):
        names = [f"{name}_images/{i % 2}/{i}.jpg" for i in range(count)]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.txt").write_text("\n".join(f"{path} {i % 2} 1" for i, path in enumerate(names)))
        write_images(folder, *names)


def _cub(root: pathlib.Path) -> None:
    folder = root / "CUB_200_2011"
    for split, count in (("train", 20), ("test", 2)):
        names = [f"00{i % 2 + 1}.Black_footed_Albatross/{split}_{i}.jpg" for i in range(count)]
        _list(folder / f"{split}.txt", names, [i % 2 for i in range(count)], folder / "images")


REPLICAS = {
    "imagenet_lt": (_imagenet_lt, (3, 2, 2)),
    "places_lt": (_places_lt, (3, 1, 1)),
    "inat21_mini": (_inat21_mini, (96, 4, 4)),
    "webvision": (_webvision, (52 * 49, 52, 52)),
    "webvision_full": (_webvision, (52 * 98, 52 * 2, 52)),
    "webvision_mini": (_webvision, (50 * 45, 50 * 5, 50)),
    "tiny_imagenet_lt": (_tiny, (3, 3, 3)),
    "tiny_imagenet_noisy": (_tiny, (3, 3, 3)),
    "inat18": (_inat18, (38, 2, 4)),
    "few_shot": (_few_shot, (24, 8, 4)),
    "cub": (_cub, (18, 2, 2)),
}


def _config(name: str, *flags: str) -> Config:
    file, _, settings = name.partition(":")
    return options.parse(
        [f"--config=configs/{file}.py{settings and f':{settings}'}", *(f"--config.{flag}" for flag in flags)], ""
    )[0]


def _flags(root: pathlib.Path, name: str, rows: tuple[int, ...] | None) -> list[str]:
    """Returns where a config reads and writes, and the counts of a replica; without `rows` those published."""
    places = [f"data={root}", f"workdir={root}/out/{name}"]
    if rows is None:
        return places
    counts = [f"protocol.{split}_rows={n}" for split, n in zip(("train", "val", "test"), rows, strict=True)]
    both = f"protocol.train_val_rows={rows[0] + rows[1]}"
    return [*places, *counts, both, "protocol.classes=0", "protocol.images_per_class="]


def _open(root: pathlib.Path, name: str, rows: tuple[int, ...] | None, *more: str) -> dict[str, list]:
    """Returns what the sources of the splits give, planned as `pipelines.embed` does."""
    (root / "memory.txt").write_text("a.jpg 0\n")
    memory = ["memory.format=image_list", "memory.path=memory.txt"]
    flags = [*memory, "encoders.value_text=", "encoders.value_image=", "class_names="]
    config = _config(name, *_flags(root, name, rows), *flags, *more)
    request = Request.of(config)
    opened = folders.open_all(request, {"key": _Encoder()}, classes.agree(request), False)  # type: ignore[dict-item]
    return {
        folder.name: [item for shard in folder.shards for item in sources.read(shard, config.embed)]
        for folder in opened
        if not folder.is_memory
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_config_is_sound_and_every_method_can_be_named(name):
    for head in ("linear", "mlp", "mean_knn", "mam"):
        config = _config(name, f"train.heads={head}")
        trials.check(config.places, config.train)
        assert config.train.heads == (head,)
        # As much as 13 whole runs.
        assert sum(trials.search(head, config.train).lengths) < 13.1 * config.train.steps
    assert config.train.loss == ("lace" if name.endswith(("_lt", "_noisy", "inat18")) else "cross_entropy")
    assert config.index.k == config.neighbors.k


@pytest.mark.parametrize("name", NAMES)
def test_its_sources_are_read_from_the_files_that_it_names(tmp_path, name):
    write, rows = REPLICAS[name]
    write(tmp_path)
    read = _open(tmp_path, name, rows)
    assert tuple(len(read[split]) for split in ("train", "val", "test")) == rows
    members = [{item.member for item in read[split]} for split in ("train", "val", "test")]
    assert not members[0] & members[1] and not members[0] & members[2] and not members[1] & members[2]
    # Of WebVision's training images two are there.
    found = read["val"] + read["test"] if "webvision" not in name else read["test"]
    assert all(isinstance(item, Sample) and item.label is not None for item in found)


@pytest.mark.parametrize("listed", _STYLES)
@pytest.mark.parametrize("stored", _STYLES)
def test_places_lt_in_each_style_of_lists_and_images(tmp_path, listed, stored):
    _places_lt(tmp_path, listed, stored)
    read = _open(tmp_path, "places_lt", (3, 1, 1))
    assert [item.label for split in ("train", "val", "test") for item in read[split]] == [0, 0, 1, 0, 1]
    assert all(isinstance(item, Sample) for split in read.values() for item in split)


def test_the_noisy_list_is_that_of_training_only(tmp_path):
    _tiny(tmp_path)
    clean, noisy = (_open(tmp_path, f"tiny_imagenet_{kind}", (3, 3, 3)) for kind in ("lt", "noisy"))
    assert [item.label for item in clean["train"]] == [0, 1, 0] and [i.label for i in noisy["train"]] == [0, 1, 1]
    assert clean["val"] == noisy["val"] and clean["test"] == noisy["test"]


@pytest.mark.parametrize("name", NAMES)
def test_a_list_with_another_number_of_rows_is_refused_before_it_is_embedded(tmp_path, name):
    write, rows = REPLICAS[name]
    write(tmp_path)
    with pytest.raises(UserError) as caught:
        _open(tmp_path, name, (rows[0] + 1, *rows[1:]))
    path = _config(name).train_set.path
    assert str(caught.value) == (
        f"{tmp_path}/{path}: names {rows[0]:,} images for train, 1 fewer than the {rows[0] + 1:,} of the protocol; get "
        f"the published list, or set --config.protocol.train_rows={rows[0]} to use this one"
    )
    assert not (tmp_path / "out" / name / "queries/train/stage.json").exists()


def test_published_counts():
    found = {name: _config(name).protocol for name in NAMES}
    for name in ("imagenet_lt", "places_lt", "inat18", "inat21_mini", "webvision"):
        assert found[name].name == name
        found[name] = dataclasses.replace(found[name], name="")
    assert found["imagenet_lt"] == Protocol(115_846, 20_000, 50_000, classes=1000, images_per_class=(5, 1_280))
    assert found["places_lt"] == Protocol(62_500, 7_300, 36_500, 0, 365, (131, 163, 71), (5, 4_980))
    assert found["inat21_mini"] == Protocol(480_000, 20_000, 100_000, classes=10_000)
    assert found["inat18"] == Protocol(test_rows=24_426, train_val_rows=437_513, classes=8_142)
    assert found["cub"] == Protocol(5_394, 600, 5_794, 5_994, classes=200)


def test_another_split_is_read_from_its_own_list(tmp_path):
    _few_shot(tmp_path, "dtd", "fewshot4_seed2", 4)
    read = _open(tmp_path, "few_shot:dataset=dtd,shots=4,seed=2", (6, 2, 4))
    assert {item.member.split("/")[0] for item in read["train"] + read["val"]} == {"fewshot4_seed2_images"}
    assert all(item.metadata == {"source": 1} for split in read.values() for item in split)


def test_a_list_that_two_splits_are_parts_of_is_counted_whole(tmp_path):
    _inat18(tmp_path)
    (tmp_path / "memory.txt").write_text("a.jpg 0\n")
    with pytest.raises(UserError) as caught:
        _open(tmp_path, "inat18", (38, 2, 4), "protocol.train_val_rows=41")
    assert str(caught.value) == (
        f"{tmp_path}/iNaturalist2018/train.txt: names 40 images for train and val, 1 fewer than the 41 of the "
        "protocol; get the published list, or set --config.protocol.train_val_rows=40 to use this one"
    )


def test_a_list_of_other_classes_is_refused_before_it_is_embedded(tmp_path):
    _few_shot(tmp_path, "eurosat", "fewshot4_seed1", 20)
    name, flags = "few_shot:dataset=eurosat,shots=4,seed=1", ["protocol.test_rows=4"]
    path = f"{tmp_path}/few_shot/eurosat/fewshot4_seed1.txt"
    with pytest.raises(UserError, match=f"{path}: has 2 classes, the protocol 10; get the published list, or set"):
        _open(tmp_path, name, None, *flags)
    with pytest.raises(UserError, match=f"{path}: has 15 and 15 images in its smallest and its largest class, the pro"):
        _open(tmp_path, name, None, *flags, "protocol.classes=2")
    flags += ["protocol.classes=2", "protocol.images_per_class=15,15"]
    assert len(_open(tmp_path, name, None, *flags)["train"]) == 30


# A folder of published lists; they are not part of this repository.
_PUBLISHED = pathlib.Path(os.environ.get("WEB_MEMORY_PROTOCOLS", ""))
_REAL = {
    "places_lt": {split: f"Places_LT/{split}.txt" for split in ("train", "val", "test")},
    "imagenet_lt": {split: f"ImageNet_LT/{split}.txt" for split in ("val", "test")},
    "inat18": {"test": "iNaturalist2018/val.txt"},
    **{
        f"few_shot:dataset={name},shots={shots},seed={seed}": dict.fromkeys(("train", "val"), path)
        | {"test": f"few_shot/{name}/test.txt"}
        for name in few_shot.SETS
        for shots, seed in ((4, 1), (16, 1), (16, 2), (16, 3))
        for path in (f"few_shot/{name}/fewshot{shots}_seed{seed}.txt",)
    },
}


@pytest.mark.skipif(_PUBLISHED == pathlib.Path(), reason="WEB_MEMORY_PROTOCOLS names no folder of published lists")
@pytest.mark.parametrize("name", _REAL)
def test_the_published_lists(tmp_path, name):
    """Rows and classes of the lists as published, of which the first images are there, and the refusal of a cut one."""
    lists, config = _REAL[name], _config(name)
    for split, path in lists.items():
        text = (_PUBLISHED / path).read_text()
        found = re.findall(r"^(.+?\.(?:jpg|JPEG)) (\d+)(?: [01])?$", text, re.MULTILINE)
        assert sorted({int(label) for _, label in found}) == list(range(config.protocol.classes))
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
        write_images(tmp_path / config.queries[split].image_root, *(member for member, _ in found[:3]))
    paths = [f"{split}_set.path={lists.get(split, '')}" for split in ("train", "val", "test")]
    for split, items in _open(tmp_path, name, None, *paths).items():
        assert len(items) == getattr(config.protocol, f"{split}_rows")
        assert split == "val" or any(isinstance(item, Sample) for item in items)
    test = tmp_path / lists["test"]
    test.write_text(test.read_text().rstrip().rpartition("\n")[0])
    with pytest.raises(UserError, match=f"{re.escape(str(test))}: names [0-9,]+ images for test, 1 fewer than the"):
        _open(tmp_path, name, None, *paths)


@pytest.mark.skipif(_PUBLISHED == pathlib.Path(), reason="WEB_MEMORY_PROTOCOLS names no folder of published lists")
def test_the_published_classes():
    """Shot groups of Places-LT by both conventions, and the sizes of the classes of each training list."""
    for name, lists in _REAL.items():
        if "train" in lists:
            labels = re.findall(r"\.(?:jpg|JPEG) (\d+)", (_PUBLISHED / lists["train"]).read_text())
            sizes = np.bincount(np.array(labels, int))
            # A quarter of the shots is held out.
            left = sizes if name == "places_lt" else sizes - np.floor(sizes / 4 + 0.5).astype(int)
            assert (left.min(), left.max()) == _config(name).protocol.images_per_class
            if name == "places_lt":
                assert ((sizes > 100).sum(), (sizes < 20).sum()) == (131, 71)
                assert ((sizes >= 100).sum(), (sizes <= 20).sum()) == (132, 77)


@pytest.mark.slow
def test_from_lists_to_figures_with_an_image_that_is_broken(tmp_path, capsys):
    """Places-LT's config as its docstring runs it, with encoders of a few weights and one trial a head."""
    _places_lt(tmp_path, listed="plain")
    (tmp_path / "places365" / _PLACES["train"][1]).write_bytes(b"no image")
    tiny.write_tar(tmp_path / "laion400m/00000.tar", [(f"{i}", tiny.image_bytes(i), "a red dog") for i in range(6)])
    tiny.save_image_encoder(tmp_path / "image")
    tiny.save_text_encoder(tmp_path / "text")
    (tmp_path / "places_lt/classnames.txt").write_text("airfield\nfield\n")
    flags = [
        *_flags(tmp_path, "places_lt", (3, 1, 1)),
        *(f"encoders.{name}={tmp_path}/{kind}" for name, kind in (("key", "image"), ("value_text", "text"))),
        *("encoders.value_image=", "filters.leakage=0", "embed.max_rejects_share=0.5", "index.searcher=exact"),
        *("protocol.classes=2", "protocol.classes_per_group=0,0,2", "index.k=2", "neighbors.k=2", "train.k=0"),
        *("train.values=text", "train.heads=linear,mam", "train.steps=2", "train.batch_size=2", "train.trials=1"),
        *("train.attention_dim=2", "train.value_dim=2", "train.seeds=0"),
    ]
    argv = ["--config=configs/places_lt.py", *(f"--config.{flag}" for flag in flags)]
    for stage in (embed.main, build.main, neighbors.main, sweep.main, train.main):
        assert stage(argv) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "linear: 1 trial," in printed and "0 many-shot, 0 medium-shot, 2 few-shot" in printed
    assert "1 of 3 images could not be used and do not count" in printed
    out = tmp_path / "out/places_lt"
    for head in ("linear", "mam"):
        result = json.loads(next(out.glob(f"runs/*/{head}/seed-0/result.json")).read_text())
        assert result["split"] == "test" and result["accuracy"]["all"] in (0.0, 1.0)
    assert train.main([*argv, "--config.protocol.test_rows=36500"]) == 2
    assert (
        f"error: {tmp_path}/places_lt/Places_LT_test.txt: names 1 image, 36,499 fewer than the 36,500 of the protocol"
        in capsys.readouterr().err
    )
