"""One label space for all splits: names are numbered once, from the training set, whatever the format."""

import dataclasses
import io
import json
import pathlib
import shutil
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.base import Config, Source
from pipelines import embed, manifest, schemas, storage
from pipelines.embedding import classes
from pipelines.embedding.request import Request
from pipelines.errors import UserError
from pipelines.manifest import Embeddings
from tests.pipelines import tiny_encoders as tiny

_FOLDER = Source(format="image_folder")


def _images(root: pathlib.Path, *names: str) -> None:
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(tiny.image_bytes(seed))


def _folders(root: pathlib.Path, **splits: str) -> dict[str, Source]:
    """Writes a folder of classes for each split, `train="ant bee"`, and returns the sources by field."""
    for split, names in splits.items():
        _images(root / split, *(f"{name}/{i}.png" for name in names.split() for i in range(2)))
    return {f"{split}_set": dataclasses.replace(_FOLDER, path=split) for split in splits}


def _agree(root: pathlib.Path, memory: Source | None = None, **fields: object) -> classes.Classes:
    _images(root / "pairs", "0.png")
    config = Config(data=str(root), memory=memory or dataclasses.replace(_FOLDER, path="pairs"), **fields)
    return classes.agree(Request.of(dataclasses.replace(config, workdir=str(root / "out"))))


def test_a_split_without_a_class_or_with_a_stray_folder_shifts_nothing(tmp_path):
    sets = _folders(tmp_path, train="ant bee cat dog", val="ant cat dog", test="ant bee cat dog")
    _images(tmp_path / "test", "@eaDir/0.png")
    found = _agree(tmp_path, **sets)
    assert found.names == ("ant", "bee", "cat", "dog")
    assert [found.labels["val"].number(name) for name in ("ant", "cat", "dog")] == [0, 2, 3]
    assert dict(found.passed_over["test"]) == {"@eaDir": 1}


def test_names_are_equal_in_any_unicode_form(tmp_path):
    found = _agree(tmp_path, **_folders(tmp_path, train="caf\u00e9 cafz", val="cafe\u0301 cafz"))
    assert found.names == ("cafz", "caf\u00e9")
    assert found.labels["val"].number("cafe\u0301") == 1


@pytest.mark.parametrize(
    ("splits", "sentence"),
    [
        (
            {"train": "apple banana", "val": "apple Banana"},
            r"/val \(val\): has 1 class that the training set does not have: 'Banana' \(2 .*; did you mean 'banana'",
        ),
        (
            {"train": "apple", "test": "apple kiwi fig"},
            r"has 2 classes .*: 'fig' \(2 images\), 'kiwi' \(2 images\); write",
        ),
        (
            {"train": "apple Banana banana"},
            "has the classes 'Banana' and 'banana', which differ only in upper and lower",
        ),
        ({"train": "apple", "val": "Apple apple"}, "has the classes 'Apple' and 'apple'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, splits, sentence):
    with pytest.raises(UserError, match=sentence):
        _agree(tmp_path, **_folders(tmp_path, **splits))


def test_parts_of_one_folder_share_the_names_of_the_part_that_trains(tmp_path):
    _images(tmp_path / "photos", *(f"{name}/{i}.png" for name in ("a", "b", "c") for i in range(10)))
    photos = dataclasses.replace(_FOLDER, path="photos")
    sets = {
        "train_set": dataclasses.replace(photos, part=(0.2, 1.0), classes=2),
        "val_set": dataclasses.replace(photos, part=(0.0, 0.2), classes=2),
    }
    assert _agree(tmp_path, **sets).names == ("a", "b")


@pytest.mark.parametrize(
    ("train", "numbers"),
    [("0.jpg 1\n1.jpg 0\n", {}), ("", {"class_names": "names.txt"})],
)
def test_names_need_a_training_set_with_names_or_a_file_of_them(tmp_path, train, numbers):
    (tmp_path / "train.txt").write_text(train or "0.jpg 1\n1.jpg 0\n")
    (tmp_path / "names.txt").write_text("zebra\nant\n")
    listed = Source(format="image_list", path="train.txt")
    sets = {"train_set": listed, **_folders(tmp_path, val="ant zebra")}
    if numbers:
        found = _agree(tmp_path, **sets, **numbers)
        assert [found.labels["val"].number(name) for name in ("ant", "zebra")] == [1, 0]
    else:
        with pytest.raises(UserError, match=r"val \(val\): its labels are names, such as 'ant', 'zebra', but those of"):
            _agree(tmp_path, **sets)


def test_numbers_do_not_mean_classes_whose_names_are_other_numbers(tmp_path):
    (tmp_path / "val.txt").write_text("x.jpg 2\n")
    val = Source(format="image_list", path="val.txt")
    good = _folders(tmp_path, train="0 1 2")
    assert _agree(tmp_path, **good, val_set=val).names == ("0", "1", "2")
    _folders(tmp_path, train="10")
    with pytest.raises(UserError, match="its labels are numbers, but the training set's class '10' has the number 2"):
        _agree(tmp_path, **good, val_set=val)


def test_categories_and_class_labels_are_mapped_by_name(tmp_path):
    def coco(name: str, categories: list[tuple[int, str]]) -> None:
        images = [{"id": place, "file_name": f"{place}.png"} for place in range(len(categories))]
        data = {
            "images": images,
            "categories": [{"id": number, "name": text} for number, text in categories],
            "annotations": [{"image_id": place, "category_id": n} for place, (n, _) in enumerate(categories)],
        }
        (tmp_path / name).write_text(json.dumps(data))

    # COCO's ids begin at 1 and have gaps.
    coco("train.json", [(1, "person"), (3, "car"), (90, "bus")])
    coco("val.json", [(0, "bus"), (1, "person")])
    sets = {f"{split}_set": Source(format="inat2021", path=f"{split}.json") for split in ("train", "val")}
    found = _agree(tmp_path, **sets)
    assert found.names == ("person", "car", "bus")
    assert [found.labels["val"].number(label) for label in (0, 1)] == [2, 0]
    coco("val.json", [(0, "train")])
    with pytest.raises(UserError, match="has 1 class .*: 'train' .1 image"):
        _agree(tmp_path, **sets)


def test_a_class_names_file_is_compared_with_the_training_set(tmp_path):
    sets = _folders(tmp_path, train="ant bee cat")

    def said(text: str) -> str:
        (tmp_path / "names.txt").write_text(text)
        config = Config(
            data=str(tmp_path), memory=_FOLDER, workdir=str(tmp_path / "out"), class_names="names.txt", **sets
        )
        request = Request.of(dataclasses.replace(config, memory=dataclasses.replace(_FOLDER, path="train")))
        return classes.check_class_names(request, classes.agree(request), text.split())

    assert said("Ameise\nBiene\nKatze\n") == ""
    assert said("Ameise\nBiene\nKatze\nHund\n") == "names.txt names 4, the training set has 3"
    with pytest.raises(UserError, match="class_names=names.txt: names 2 classes, the training set has 3; give each"):
        said("Ameise\nBiene\n")
    with pytest.raises(UserError, match="has 'bee' in line 3, but it is number 1 of the training set's classes"):
        said("ant\ncat\nbee\n")
    (tmp_path / "train" / "aardvark").mkdir()
    with pytest.raises(UserError, match="names 4 classes, but 'aardvark' has no training image and therefore no num"):
        said("Erdferkel\nAmeise\nBiene\nKatze\n")


class World:
    """Folders of classes, and the command that embeds them."""

    def __init__(self, root: pathlib.Path, encoders: pathlib.Path) -> None:
        self.root = root
        (root / "config.py").write_text("from configs.base import Config\ndef get_config():\n    return Config()\n")
        self.flags: dict[str, object] = {
            "data": root,
            "workdir": root / "out",
            "encoders.key": encoders / "image",
            "encoders.value_image": "",
            "encoders.value_text": "",
            "filters.leakage": 0,
            "embed.max_rejects_share": 1,
        }

    def embed(self, **changes: object) -> int:
        flags = {**self.flags, **{name.replace("__", "."): value for name, value in changes.items()}}
        argv = [f"--config={self.root}/config.py", *(f"--config.{name}={value}" for name, value in flags.items())]
        return embed.main(argv)

    def use(self, source: str, path: str, **fields: object) -> None:
        """Sets a source's path, format and other fields."""
        self.flags |= {f"{source}.{name}": value for name, value in {"path": path, **fields}.items()}

    def folders(self, **sources: str) -> None:
        """Makes sources folders of classes; `memory="ant"`, otherwise the names of splits."""
        _folders(self.root, **sources)
        for name in sources:
            self.use(name if name == "memory" else f"{name}_set", name, format="image_folder")

    def labels(self, name: str) -> list[int | None]:
        folder = str(self.root / "out" / (name if name == "memory" else f"queries/{name}"))
        embedded = Embeddings(folder)
        tables = [embedded.read(shard, ["label"]) for shard in embedded.shard_rows]
        return pa.concat_tables(tables)["label"].to_pylist()


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    tiny.save_image_encoder(folder / "image")
    tiny.save_text_encoder(folder / "text")
    return folder


@pytest.fixture
def world(tmp_path, encoders):
    return World(tmp_path, encoders)


def test_the_names_are_stored_and_are_the_class_names(world, encoders, capsys):
    world.folders(train="cat dog red", val="dog red", test="cat dog red", memory="zebra dog")
    _images(world.root / "test", "__MACOSX/0.png")
    assert world.embed(encoders__value_text=encoders / "text") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "train 6 rows" in out
    assert "classes 3 / 2 / 3 (train / val / test), 2 images each" in out
    assert "passed over system folders: __MACOSX 1" in out
    assert "unknown classes 2 rows of the memory, without a label" in out
    assert [world.labels(name) for name in ("train", "val", "memory")] == [
        [0, 0, 1, 1, 2, 2],
        [1, 1, 2, 2],
        [1, 1, None, None],
    ]
    for split in ("train", "val", "test"):
        assert Embeddings(str(world.root / f"out/queries/{split}")).class_names == ["cat", "dog", "red"]
    table = schemas.read(str(world.root / "out/classes.parquet"), ["name"])
    assert table["name"].to_pylist() == ["cat", "dog", "red"]
    rows = schemas.read(str(world.root / "out/memory/memory-00000.parquet"), ["metadata"])["metadata"].to_pylist()
    assert json.loads(rows[-1]) == {"class": "zebra"}


def test_a_class_more_is_another_identity_and_more_images_are_not(world, capsys):
    world.folders(train="cat dog", val="cat", memory="cat")
    assert world.embed() == 0
    _images(world.root / "train", "dog/more.png")
    assert world.embed() == 0
    assert world.labels("train") == [0, 0, 1, 1, 1]
    before = storage.read_json(str(world.root / "out/queries/train/stage.json"))
    _images(world.root / "train", "bear/0.png")
    capsys.readouterr()
    assert world.embed() == 2
    error = capsys.readouterr().err
    assert "was embedded with 2 named classes, now the training set has 3 ('bear' is new), so labels would" in error
    assert storage.read_json(str(world.root / "out/queries/train/stage.json")) == before


def test_a_later_split_takes_the_stored_names(world, capsys):
    world.folders(train="ant bee cat", memory="ant")
    assert world.embed() == 0
    world.folders(test="bee cat")
    # The sources of train need not be there any more.
    world.use("train_set", "")
    assert world.embed() == 0
    assert world.labels("test") == [1, 1, 2, 2]
    _images(world.root / "test", "eel/0.png")
    assert world.embed() == 2
    assert "'eel' (1 image" in capsys.readouterr().err


def _tar(path: pathlib.Path, labels: list[object], suffix: str = "cls") -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for place, label in enumerate(labels):
            text = str(label) if suffix == "cls" else json.dumps({"label": label})
            for end, data in (("png", tiny.image_bytes(place)), (suffix, text.encode())):
                info = tarfile.TarInfo(f"{place:05d}.{end}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def _example(image: bytes, label: str) -> bytes:
    import tensorflow as tf

    features = {"jpg": image, "label": label.encode()}
    lists = {name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[v])) for name, v in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=lists)).SerializeToString()


def _samples(world: World, split: str, kind: str, labels: list[str]) -> None:
    """Makes a split of files whose labels are texts."""
    path = world.root / f"{split}-{kind}"
    images = [tiny.image_bytes(place) for place in range(len(labels))]
    if kind in ("cls", "json"):
        _tar(path / "0.tar", labels, kind)
        world.use(f"{split}_set", f"{path}/*.tar", format="img2dataset")
    elif kind == "parquet":
        path.mkdir()
        pq.write_table(pa.table({"image": images, "label": labels}), path / "0.parquet")
        world.use(f"{split}_set", f"{path}/*.parquet", format="img2dataset_parquet")
    elif kind == "tfrecord":
        import tensorflow as tf

        path.mkdir()
        with tf.io.TFRecordWriter(str(path / "0.tfrecord")) as writer:
            for image, label in zip(images, labels, strict=True):
                writer.write(_example(image, label))
        world.use(f"{split}_set", f"{path}/*.tfrecord", format="tfrecord")
    else:
        _images(world.root / "images", *(f"{place}.png" for place in range(len(labels))))
        rows = {"list": "{}.png {}", "csv": "{}.png,{}", "jsonl": '{{"path": "{}.png", "label": "{}"}}'}
        lines = [rows[kind].format(place, label) for place, label in enumerate(labels)]
        file = world.root / f"{split}.{'txt' if kind == 'list' else kind}"
        file.write_text("\n".join(["path,label", *lines] if kind == "csv" else lines) + "\n")
        form = "image_list" if kind == "list" else "table"
        world.use(f"{split}_set", file.name, format=form, image_root="images")


@pytest.mark.parametrize("kind", ["cls", "json", "parquet", "tfrecord", "list", "csv", "jsonl"])
def test_labels_that_are_texts_in_every_format(world, capsys, kind):
    world.folders(memory="ant")
    _samples(world, "train", kind, ["dog", "ant", "cafe\u0301", "ant", "golden retriever"])
    _samples(world, "val", kind, ["golden retriever", "caf\u00e9"])
    assert world.embed() == 0, capsys.readouterr().err
    assert world.labels("train") == [2, 0, 1, 0, 3]
    assert world.labels("val") == [3, 1]
    assert world.labels("memory") == [0, 0]
    _samples(world, "test", "csv", ["ant", "Dog"])
    capsys.readouterr()
    assert world.embed() == 2
    assert "'Dog' (1 image; did you mean 'dog'?)" in capsys.readouterr().err


def test_names_and_numbers_in_one_source_are_refused(world, capsys):
    world.folders(memory="ant")
    _samples(world, "train", "csv", ["dog", "1"])
    assert world.embed() == 2
    assert "train.csv: its labels are names, such as 'dog', and numbers, such as '1'" in capsys.readouterr().err


def _class_label(path: pathlib.Path, names: list[str], labels: list[int]) -> None:
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    images = [{"bytes": tiny.image_bytes(place), "path": None} for place in range(len(labels))]
    table = pa.table({"image": images, "label": pa.array(labels, pa.int64())})
    path.parent.mkdir(exist_ok=True)
    info = json.dumps({"info": {"features": features}})
    pq.write_table(table.replace_schema_metadata({"huggingface": info}), path)


def test_a_class_label_is_mapped_by_its_names(world, capsys):
    world.folders(memory="sheep lion")
    _class_label(world.root / "hf/train.parquet", ["sheep", "lion", "bear"], [0, 1, 2, 1])
    _class_label(world.root / "hf/val.parquet", ["bear", "lion", "sheep", "eel"], [0, 1, 2])
    for split in ("train", "val"):
        world.use(f"{split}_set", f"hf/{split}.parquet", format="img2dataset_parquet")
    assert world.embed() == 0, capsys.readouterr().err
    assert world.labels("train") == [0, 1, 2, 1]
    assert world.labels("val") == [2, 1, 0]
    assert world.labels("memory") == [1, 1, 0, 0]
    _class_label(world.root / "hf/val.parquet", ["bear", "lion", "sheep", "eel"], [0, 3])
    assert world.embed() == 2
    assert "'eel' (1 image" in capsys.readouterr().err


def test_numbers_of_a_list_that_no_training_image_has_are_named(world, capsys):
    world.folders(memory="ant")
    for split, labels in {"train": ["0", "1", "3"], "val": ["0", "2", "2"]}.items():
        _samples(world, split, "list", labels)
    assert world.embed() == 2
    assert "val.txt (val): has 1 class that the training set does not have: 2 (2 images)" in capsys.readouterr().err
    assert not (world.root / "out/queries/val" / manifest.STAGE_FILE).exists()


@pytest.mark.parametrize("kind", ["list", "cls"])
def test_numbers_that_begin_at_1_are_said_before_training(world, capsys, kind):
    world.folders(memory="ant")
    said = "labels web-memory train will refuse them: labels begin with 1; set first_label=1 of every source whose"
    for first, is_said in ((1, True), (0, False)):
        _samples(world, "train", kind, [str(first), str(first + 1), str(first)])
        assert world.embed() == 0
        assert (said in " ".join(capsys.readouterr().out.split())) == is_said
    # The remedy that the sentence names.
    _samples(world, "train", kind, ["1", "2", "1"])
    world.flags["train_set.first_label"] = 1
    shutil.rmtree(world.root / "out")
    assert world.embed() == 0
    assert world.labels("train") == [0, 1, 0] and said not in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("kind", ["list", "cls"])
def test_gaps_in_numbers_are_said_before_training(world, capsys, kind):
    world.folders(memory="ant")
    said = "labels web-memory train will refuse them: class 1 has no training image, and every label up to 2 needs one"
    for last, is_said in ((2, True), (1, False)):
        _samples(world, "train", kind, ["0", str(last), "0"])
        assert world.embed() == 0
        assert (said in " ".join(capsys.readouterr().out.split())) == is_said
    _samples(world, "train", kind, ["class 0", "class 2", "class 0"])
    # The remedy that the sentence names.
    shutil.rmtree(world.root / "out")
    assert world.embed() == 0
    assert world.labels("train") == [0, 1, 0] and said not in " ".join(capsys.readouterr().out.split())


def test_a_memory_of_other_folders_has_its_own_captions_and_no_labels(world, encoders, capsys):
    _samples(world, "train", "list", ["0", "1"])
    world.folders(memory="n01 n02")
    (world.root / "names.txt").write_text("dog\ncat\n")
    world.use("memory", "memory", class_names="names.txt")
    assert world.embed(encoders__value_text=encoders / "text") == 0, capsys.readouterr().err
    table = schemas.read(str(world.root / "out/memory/memory-00000.parquet"), ["caption", "label", "metadata"])
    assert table["caption"].to_pylist() == ["dog", "dog", "cat", "cat"]
    assert table["label"].null_count == 4
    assert [json.loads(text) for text in table["metadata"].to_pylist()[1:3]] == [{"class": "n01"}, {"class": "n02"}]


def test_a_memory_of_texts_without_the_classes_of_train_keeps_its_rows(world, capsys):
    world.folders(train="ant bee")
    _tar(world.root / "pairs/0.tar", ["bee", "wasp", "ant"])
    world.use("memory", "pairs/*.tar", format="img2dataset")
    assert world.embed() == 0, capsys.readouterr().err
    assert world.labels("memory") == [1, None, 0]
    (rows,) = schemas.read(str(world.root / "out/memory/0.parquet"), ["metadata"])["metadata"].chunks
    assert [text and json.loads(text).get("class") for text in rows.to_pylist()] == [None, "wasp", None]
