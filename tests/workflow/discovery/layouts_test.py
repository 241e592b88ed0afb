"""Layouts that data sets are published in: each config must read the right images with the right labels, or none."""

import csv
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.base import Embed
from pipelines import options, sources
from tests.pipelines import tiny_encoders as tiny
from workflow import init

_CLASSES = ("cat", "dog", "red")
_ROWS = {"train": 12, "val": 6, "test": 6}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "in"


def _image(split, place):
    """Returns the image of a row of a split, which no other row has."""
    return tiny.image_bytes(1000 * list(_ROWS).index(split) + place)


def _write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def _table(path, header, rows, delimiter=","):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([header, *rows])


def _found(root, *flags):
    """Runs init and returns its config, and for each split what is read: class of each image by its bytes."""
    assert init.main(["mine", f"--images={root}", "--force", *flags]) == 0
    config = options.load("mine.py")
    naming = sources.find_names(config.train_set, "", Embed())
    names = sources.label_space(naming, config.train_set, "").names if naming else _CLASSES
    space = sources.label_space(naming, config.train_set, "") if naming else None
    read = {}
    for split in _ROWS:
        source = getattr(config, f"{split}_set")
        own = sources.find_names(source, "", Embed())
        labels = sources.Labels(space, own.names if own.declared else (), own.names) if space and own else None
        shards = sources.plan(source, "", Embed(), f"listings/{split}", labels)
        items = [item for shard in shards for item in sources.read(shard, Embed())]
        assert all(isinstance(item, sources.Sample) for item in items), items
        read[split] = {item.image: names[item.label] for item in items}
    return config, read


def _right(*splits):
    return {split: {_image(split, i): _CLASSES[i % 3] for i in range(_ROWS[split])} for split in splits or _ROWS}


def test_lists_of_splits_that_share_their_file_names_take_the_images_of_their_own_split(here):
    for split, rows in _ROWS.items():
        for i in range(rows):
            _write(here / split / f"{i}.png", _image(split, i))
        _table(here / f"{split}.csv", ("filename", "label"), [(f"{i}.png", _CLASSES[i % 3]) for i in range(rows)])
    assert _found(here)[1] == _right()


@pytest.mark.parametrize(("folder", "end"), [("labels", ".png"), ("meta", "")])
def test_lists_of_paths_in_class_folders_divide_the_images(here, folder, end):
    """DTD's, of which the first division is read, and Food-101's, without the suffix."""
    for split, rows in _ROWS.items():
        names = [f"{_CLASSES[i % 3]}/{split}_{i}" for i in range(rows)]
        for i, name in enumerate(names):
            _write(here / f"images/{name}.png", _image(split, i))
        _write(here / folder / f"{split}1.txt", "".join(f"{name}{end}\n" for name in names))
        _write(here / folder / f"{split}2.txt", "".join(f"{name}{end}\n" for name in names[::2]))
    _write(here / folder / "classes.txt", "cat\ndog\nred\n")
    assert _found(here)[1] == _right()


def _coco(root, split, folder, names=_CLASSES):
    rows = range(_ROWS[split])
    for i in rows:
        _write(root / folder / f"{i}.png", _image(split, i))
    images = [{"id": 100 + i, "file_name": f"{i}.png"} for i in rows]
    boxes = [{"id": i, "image_id": 100 + i, "category_id": 7 * (i % 3)} for i in rows]
    categories = [{"id": 7 * place, "name": name} for place, name in enumerate(names)]
    text = json.dumps({"images": images, "annotations": boxes, "categories": categories})
    _write(root / f"annotations/instances_{folder}.json", text)


@pytest.mark.parametrize("named", ["", "annotations"])
def test_coco_with_its_lists_beside_the_folders_of_images(here, named):
    for split in _ROWS:
        _coco(here, split, f"{split}2017")
    assert _found(here / named)[1] == _right()


def test_images_of_several_categories_are_left_out_and_said(here, capsys):
    for split in _ROWS:
        _coco(here, split, f"{split}2017")
    path = here / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"].append({"id": 99, "image_id": 100, "category_id": 7})
    path.write_text(json.dumps(content))
    right = _right()
    del right["train"][_image("train", 0)]
    assert _found(here)[1] == right
    assert "note: rows of train without a label: 1 of 12, which are left out" in capsys.readouterr().out


@pytest.mark.parametrize("names", ["training_set,validation_set,test_set", "train2017,val2017,test2017"])
def test_folders_of_splits_have_other_words_beside_them(here, names):
    for split, name in zip(_ROWS, names.split(","), strict=True):
        for i in range(_ROWS[split]):
            _write(here / name / _CLASSES[i % 3] / f"{i}.png", _image(split, i))
    assert _found(here)[1] == _right()


def test_a_column_says_the_split_of_each_row(here):
    rows = []
    for split, count in _ROWS.items():
        for i in range(count):
            _write(here / f"pics/{split[:2]}{i}.png", _image(split, i))
            rows.append((f"pics/{split[:2]}{i}.png", _CLASSES[i % 3], {"val": "valid"}.get(split, split), "mine"))
    _table(here / "all.csv", ("path", "label", "Split", "dataset"), rows)
    config, read = _found(here)
    assert read == _right()
    assert config.val_set.where == ("Split=valid",) and config.memory.where == ("Split=train",)


def test_a_missing_split_is_cut_from_the_rows_that_a_column_calls_train(here):
    rows = []
    for split in ("train", "test"):
        for i in range(_ROWS[split]):
            _write(here / f"{split[:2]}{i}.png", _image(split, i))
            rows.append((f"{split[:2]}{i}.png", _CLASSES[i % 3], split))
    _table(here / "all.tsv", ("image", "class", "set"), rows, "\t")
    _, read = _found(here)
    right = _right("train", "test")
    assert read["test"] == right["test"] and {**read["train"], **read["val"]} == right["train"]
    assert len(read["val"]) == 3 and not read["train"].keys() & read["val"].keys()


def test_column_names_in_another_case_are_found(here):
    rows = [(f"{i}.png", i % 3, _CLASSES[i % 3], f"a {_CLASSES[i % 3]}") for i in range(30)]
    for i in range(30):
        _write(here / f"img/{i}.png", _image("train", i))
    _table(here / "labels.csv", ("Filename", "ClassId", "Label", "Caption"), rows, ";")
    config, read = _found(here)
    assert config.train_set.fields == ("path=Filename", "label=Label", "caption=Caption")
    whole = {image: name for split in read.values() for image, name in split.items()}
    assert whole == {_image("train", i): _CLASSES[i % 3] for i in range(30)}


def test_paths_from_the_root_have_the_folder_that_they_share(here, tmp_path):
    for split, count in _ROWS.items():
        for i in range(count):
            _write(tmp_path / f"elsewhere/{split}/{i}.png", _image(split, i))
        rows = [(f"{tmp_path}/elsewhere/{split}/{i}.png", _CLASSES[i % 3]) for i in range(count)]
        _table(here / f"{split}.csv", ("image_path", "label"), rows)
    config, read = _found(here)
    assert read == _right() and config.val_set.image_root == f"{tmp_path}/elsewhere/val"


def test_images_in_one_folder_with_lists_of_other_things_beside_it(here, capsys):
    for i in range(30):
        _write(here / "images" / _CLASSES[i % 3] / f"{i}.png", _image("train", i))
    _write(here / "meta/train.txt", "cat/0\ndog/1\n")
    config, read = _found(here)
    assert config.train_set.path == f"{here}/images" and sum(map(len, read.values())) == 30
    said = " ".join(capsys.readouterr().out.split())
    assert "note: not read: the folder 'meta'" in said
    assert "note: 'meta/train.txt' may divide these images; to keep that, write lists of `path label`" in said


def test_a_folder_of_test_images_that_no_list_names_is_said(here, capsys):
    for i in range(30):
        _write(here / f"train/{i:03}.png", _image("train", i))
    for i in range(3):
        _write(here / f"test/{i:03}.png", _image("test", i))
    _table(here / "labels.csv", ("id", "breed"), [(f"{i:03}", _CLASSES[i % 3]) for i in range(30)])
    config, _ = _found(here)
    assert config.train_set.image_root == f"{here}/train"
    assert capsys.readouterr().out.count("not read: the folder") == 1


def test_a_list_whose_images_are_not_there_gives_way_to_class_folders(here, capsys):
    for i in range(30):
        _write(here / "images" / f"{i % 3 + 1:03}.{_CLASSES[i % 3]}" / f"{i}.png", _image("train", i))
    _write(here / "train_test_split.txt", "".join(f"{i + 1} {i % 2}\n" for i in range(30)))
    assert init.main(["mine", f"--images={here}"]) == 0
    assert options.load("mine.py").train_set.path == f"{here}/images"
    assert "not read: the lists of `path label`, whose images are not there" in capsys.readouterr().out


def test_a_val_set_in_another_format_without_a_class_of_train_is_not_read(here, capsys):
    for i in range(30):
        _write(here / f"train/n0{i % 3}/images/{i}.JPEG", _image("train", i))
    for i in range(6):
        _write(here / f"val/images/val_{i}.JPEG", _image("val", i))
    _write(here / "val/val_annotations.txt", "".join(f"val_{i}.JPEG\tn0{i % 3}\t0\t0\t62\n" for i in range(6)))
    assert init.main(["mine", f"--images={here}"]) == 0
    assert "val_annotations.txt: train has none of the classes of val" in " ".join(capsys.readouterr().out.split())
    assert options.load("mine.py").val_set.path == f"{here}/train"


@pytest.mark.parametrize("name", ["trainval", "train_val", "data"])
def test_a_file_named_like_a_test_set_is_never_the_training_set(here, name):
    for split in ("train", "test"):
        for i in range(_ROWS[split]):
            _write(here / f"{split}{i}.png", _image(split, i))
        rows = [(f"{split}{i}.png", _CLASSES[i % 3]) for i in range(_ROWS[split])]
        _table(here / f"{name if split == 'train' else split}.csv", ("path", "label"), rows)
    _, read = _found(here)
    assert read["test"] == _right("test")["test"] and {**read["train"], **read["val"]} == _right("train")["train"]


def test_files_of_val_and_test_alone_are_refused(here, capsys):
    for split in ("val", "test"):
        _write(here / f"{split}.png", tiny.image_bytes(0))
        _table(here / f"{split}.csv", ("path", "label"), [(f"{split}.png", "cat")])
    assert init.main(["mine", f"--images={here}"]) == 2
    assert "'test.csv', 'val.csv': none of these is of train" in capsys.readouterr().err


def test_a_column_with_values_of_no_split_is_used_and_the_rest_counted(here, capsys):
    rows = []
    for split in ("train", "test"):
        for i in range(_ROWS[split]):
            _write(here / f"{split}{i}.png", _image(split, i))
            rows.append((f"{split}{i}.png", _CLASSES[i % 3], f"{split} " if i else split))
    rows += [("train0.png", "cat", "unused"), ("train1.png", "dog", "")]
    _table(here / "all.csv", ("path", "label", "split"), rows)
    _, read = _found(here)
    assert read["test"] == _right("test")["test"] and {**read["train"], **read["val"]} == _right("train")["train"]
    said = "rows of no split, by the column 'split': 2 of 20, which are not read"
    assert said in " ".join(capsys.readouterr().out.split())


def test_a_column_that_says_no_splits_is_named(here, capsys):
    for i in range(30):
        _write(here / f"{i}.png", _image("train", i))
    _table(here / "all.csv", ("path", "label", "split"), [(f"{i}.png", _CLASSES[i % 3], i % 2) for i in range(30)])
    assert sum(map(len, _found(here)[1].values())) == 30
    assert "the column 'split' has '0', '1', which say no splits" in " ".join(capsys.readouterr().out.split())


def test_coco_has_its_labels_from_instances_and_its_captions_from_captions(here, tmp_path):
    for split in _ROWS:
        _coco(here, split, f"{split}2017")
        content = json.loads((here / f"annotations/instances_{split}2017.json").read_text())
        texts = [{"id": i, "image_id": 100 + i, "caption": f"a text of {i}"} for i in range(_ROWS[split])]
        _write(here / f"annotations/captions_{split}2017.json", json.dumps(content | {"annotations": texts}))
    config, read = _found(here, f"--pairs={here}")
    assert read == _right()
    shards = sources.plan(config.memory, "", Embed(), "listings/memory")
    captions = [item.caption for shard in shards for item in sources.read(shard, Embed())]
    assert captions == [f"a text of {i}" for i in range(12)]


def test_a_test_set_without_labels_is_not_read(here, capsys):
    for split, header in (("train", ("path", "label")), ("test", ("path",))):
        for i in range(12):
            _write(here / f"{split}{i}.png", _image(split, i))
        rows = [(f"{split}{i}.png", _CLASSES[i % 3])[: len(header)] for i in range(12)]
        _table(here / f"{split}.csv", header, rows)
    _, read = _found(here)
    whole = {image: name for split in read.values() for image, name in split.items()}
    assert whole == _right("train")["train"]
    assert "test.csv, as test: its rows have no labels" in " ".join(capsys.readouterr().out.split())


def test_a_small_table_of_names_is_no_list_of_images(here):
    _classes(here)
    _table(here / "classes.csv", ("name", "label"), [(name, i) for i, name in enumerate(_CLASSES)])
    config, read = _found(here)
    assert config.train_set.format == "image_folder" and sum(map(len, read.values())) == 30


@pytest.mark.parametrize("text", ["0 0.5 0.5 0.2 0.2\n", None])
def test_texts_without_words_or_of_one_image_are_no_captions(here, text):
    _classes(here)
    for i in range(30 if text else 1):
        _write(here / _CLASSES[i % 3] / f"{i}.txt", text or "a cat")
    assert _found(here)[0].train_set.fields == ()


def test_a_single_file_of_vectors_is_found(here):
    rng = np.random.default_rng(0)
    here.mkdir()
    np.save(here / "X.npy", rng.normal(size=(60, 4)).astype(np.float32))
    np.save(here / "y.npy", np.arange(60) % 3)
    assert init.main(["mine", f"--images={here}"]) == 0
    assert options.load("mine.py").train_set.path == f"{here}/X.npy"


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (("train/images/0.png", "test/images/1.png", "train/labels/0.txt"), "are splits, not classes"),
        (("images/0.png", "masks/0.png"), "'images', 'masks' are not named like classes"),
        (("train/0.png", "test/1.png"), "'test', 'train' are splits, not classes"),
        (("cat/train/0.png", "cat/test/1.png", "dog/train/2.png"), "such as 'cat', have a split inside; put it above"),
        (("images/0.png", "notes/a.md"), "of its folders 'images' alone has images; give each class a folder"),
    ],
)
def test_splits_are_no_classes(here, files, sentence, capsys):
    for place, name in enumerate(files):
        _write(here / name, tiny.image_bytes(place))
    assert init.main(["mine", f"--images={here}"]) == 2
    assert sentence in capsys.readouterr().err and not os.path.exists("mine.py")


def test_a_file_that_is_not_understood_says_why(here, capsys):
    _table(here / "train.csv", ("id", "breed"), [("000a", "cat")])
    assert init.main(["mine", f"--images={here}/train.csv"]) == 2
    error = capsys.readouterr().err
    assert "train.csv: is not understood (" in error
    assert "train.csv: '000a', the first 'id' of it, is no image below" in error


@pytest.mark.parametrize(("column", "suffix"), [("id", ".jpg"), ("image_id", ".PNG"), ("image", ".jpeg")])
def test_names_of_images_without_their_suffix_are_completed(here, column, suffix):
    for i in range(30):
        _write(here / f"train/{i:03}{suffix}", _image("train", i))
        _write(here / f"test/{i + 30:03}{suffix}", _image("test", i))
    _table(here / "labels.csv", (column, "breed"), [(f"{i:03}", _CLASSES[i % 3]) for i in range(30)])
    _table(here / "sample_submission.csv", (column, *_CLASSES), [(f"{i + 30:03}", 0, 0, 0) for i in range(30)])
    config, read = _found(here)
    assert config.train_set.fields == (f"path={{{column}}}{suffix}", "label=breed")
    # The training set is the memory, its classes are the captions.
    shards = sources.plan(config.memory, "", Embed(), "listings/memory")
    memory = {item.image: item.caption for shard in shards for item in sources.read(shard, Embed())}
    assert memory == read["train"]
    whole = {image: name for split in read.values() for image, name in split.items()}
    assert whole == {_image("train", i): _CLASSES[i % 3] for i in range(30)}


def test_folders_that_are_links_are_named(here, tmp_path, capsys):
    _classes(tmp_path / "elsewhere")
    here.mkdir()
    for name in _CLASSES:
        (here / name).symlink_to(tmp_path / "elsewhere" / name)
    assert init.main(["mine", f"--images={here}"]) == 2
    error = capsys.readouterr().err
    assert "'cat', 'dog', 'red' are links, which are not followed: name what they lead to" in error


@pytest.mark.parametrize("value", ["-1", "0.25"])
def test_numbers_that_are_no_labels_are_no_classes(here, value, capsys):
    for i in range(30):
        _write(here / f"{i}.png", _image("train", i))
    _table(here / "all.csv", ("path", "label"), [(f"{i}.png", value if i == 7 else i % 3) for i in range(30)])
    assert init.main(["mine", f"--images={here}"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "classes 3, such as 0, 2, 1" in printed
    assert f"cannot be used label is '{value}', must be a whole number from 0" in printed


def test_names_and_numbers_are_no_labels_together(here, capsys):
    for i in range(30):
        _write(here / f"{i}.png", _image("train", i))
    _table(here / "all.csv", ("path", "label"), [(f"{i}.png", "cat" if i == 7 else i % 3) for i in range(30)])
    assert init.main(["mine", f"--images={here}"]) == 2
    assert "its labels are names, such as 'cat', and numbers, such as '0'" in capsys.readouterr().err


def _classes(root):
    for i in range(30):
        _write(root / _CLASSES[i % 3] / f"{i}.png", _image("train", i))


@pytest.mark.parametrize("kind", ["txt", "caption"])
def test_pairs_as_texts_beside_images(here, tmp_path, capsys, kind):
    _classes(here)
    for i in range(12):
        _write(tmp_path / f"pairs/{i:05}.jpg", tiny.image_bytes(i, "JPEG"))
        # One of these looks like a line of a list.
        _write(tmp_path / f"pairs/{i:05}.{kind}", "photo.jpg 12" if i == 3 else f"a red dog {i}\n")
    config, _ = _found(here, f"--pairs={tmp_path}/pairs")
    assert (config.memory.format, config.memory.fields) == ("image_folder", (f"caption={kind}",))
    shards = sources.plan(config.memory, "", Embed(), "listings/memory")
    items = [item for shard in shards for item in sources.read(shard, Embed())]
    assert [item.caption for item in items] == [f"a red dog {i}" if i != 3 else "photo.jpg 12" for i in range(12)]
    printed = capsys.readouterr().out
    assert "12 of the 12 rows" in printed and "not read" not in printed


def test_pairs_as_a_table_with_the_suffix_of_a_text(here, tmp_path):
    _classes(here)
    for i in range(4):
        _write(tmp_path / f"pairs/Images/{i}.png", tiny.image_bytes(i))
    lines = [f'{i}.png,"a red dog, {n}"\n' for i in range(4) for n in range(5)]
    _write(tmp_path / "pairs/captions.txt", "".join(["image,caption\n", *lines]))
    config, _ = _found(here, f"--pairs={tmp_path}/pairs")
    shards = sources.plan(config.memory, "", Embed(), "listings/memory")
    captions = [item.caption for shard in shards for item in sources.read(shard, Embed())]
    assert captions == [f"a red dog, {n}" for _ in range(4) for n in range(5)]


def test_images_of_splits_in_one_table_are_pointed_out(here, capsys):
    rows = [(f"{'train' if i < 20 else 'valid'}/{i}.png", _CLASSES[i % 3]) for i in range(30)]
    for i, (path, _) in enumerate(rows):
        _write(here / path, _image("train", i))
    _table(here / "labels.csv", ("path", "label"), rows)
    assert init.main(["mine", f"--images={here}"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "its images are in folders of train and val: name the split of each in a column 'split'" in printed


def _parquet(path, split, place):
    feature = {"fine_label": {"names": list(_CLASSES), "_type": "ClassLabel"}}
    schema = pa.schema({"img": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "fine_label": pa.int64()})
    schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": feature}})})
    rows = [{"img": {"bytes": _image(split, i)}, "fine_label": i % 3} for i in place]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), path)


def test_parquet_with_other_columns_and_two_splits_is_cut(here, capsys):
    for split, count in (("train", 60), ("test", 6)):
        _parquet(here / f"data/{split}-00000-of-00001.parquet", split, range(count))
    config, read = _found(here)
    assert config.train_set.fields == ("label=fine_label",) and read["test"] == _right("test")["test"]
    assert {**read["train"], **read["val"]} == {_image("train", i): _CLASSES[i % 3] for i in range(60)}
    assert read["val"] and not read["train"].keys() & read["val"].keys()
    assert "There is no val set: its rows are drawn into 90% train, 10% val." in capsys.readouterr().out


def test_many_files_that_are_no_lists_are_named_by_a_few(here, capsys):
    for i in range(400):
        _write(here / f"{i}.txt", "nothing of use\n")
    for i in range(30):
        _write(here / f"images/{i}.png", _image("train", i))
    _write(here / "zz_train.txt", "".join(f"{i}.png {i % 3}\n" for i in range(30)))
    _, read = _found(here)
    assert sum(map(len, read.values())) == 30
    printed = " ".join(capsys.readouterr().out.split())
    assert "note: not read: '0.txt' (" in printed and "note: not read: 397 more such as these" in printed
    assert printed.count("not read") == 4


@pytest.mark.parametrize("top", ["", "train"])
def test_a_list_of_some_images_gives_way_to_class_folders_and_one_of_all_does_not(here, capsys, top):
    for i in range(30):
        _write(here / top / _CLASSES[i % 3] / f"{i}.png", _image("train", i))
    rows = [(f"{top}/{_CLASSES[i % 3]}/{i}.png".lstrip("/"), ("x", "y")[i % 2]) for i in range(30)]
    _table(here / "found.csv", ("file", "label"), rows[:6])
    assert init.main(["mine", f"--images={here}"]) == 0
    assert options.load("mine.py").train_set.path == str(here / top).rstrip("/")
    said = " ".join(capsys.readouterr().out.split())
    assert "not read: the table, with 6 rows where the class folders have 30 images; to read it, name its file" in said
    _table(here / "found.csv", ("file", "label"), rows)
    assert init.main(["mine", f"--images={here}", "--force"]) == 0
    assert options.load("mine.py").train_set.format == "table"
    assert "also looks like class folders; it has 30 rows where" in " ".join(capsys.readouterr().out.split())


def test_a_column_of_splits_in_parquet_with_images_is_said(here, capsys):
    images = [{"bytes": _image("train", i)} for i in range(30)]
    columns = {"image": images, "label": [_CLASSES[i % 3] for i in range(30)], "split": ["train"] * 20 + ["test"] * 10}
    here.mkdir()
    pq.write_table(pa.table(columns), here / "all.parquet")
    assert init.main(["mine", f"--images={here}"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "the column 'split' says 'test' and 'train' and is not used, so rows of the test set may be trained on" in said
    )


def test_images_of_a_table_in_two_folders_are_said(here, capsys):
    for i in range(30):
        _write(here / f"part_{1 + i // 20}" / f"{i}.png", _image("train", i))
    _table(here / "labels.csv", ("file", "label"), [(f"{i}.png", _CLASSES[i % 3]) for i in range(30)])
    assert init.main(["mine", f"--images={here}"]) == 0
    said = capsys.readouterr().out.replace("\n", " ")
    assert "are in several folders" in said and "'/part_2'".strip("'") in said and "bring all into one folder" in said


@pytest.mark.parametrize(("column", "values"), [("is_train", ("1", "0")), ("Is_Valid", ("False", "True"))])
def test_a_column_of_yes_and_no_says_the_splits(here, column, values):
    other = "test" if column == "is_train" else "val"
    for split in ("train", other):
        for i in range(_ROWS[split]):
            _write(here / f"{split}_{i}.png", _image(split, i))
    rows = [
        (f"{split}_{i}.png", _CLASSES[i % 3], value)
        for split, value in zip(("train", other), values, strict=True)
        for i in range(_ROWS[split])
    ]
    _table(here / "labels.csv", ("file", "label", column), rows)
    assert init.main(["mine", f"--images={here}"]) == 0
    config = options.load("mine.py")
    assert config.train_set.where == (f"{column}={values[0]}",)
    assert getattr(config, f"{other}_set").where == (f"{column}={values[1]}",)


@pytest.mark.parametrize(
    ("folders", "sentence"),
    [
        (("cars_test", "cars_train"), "are splits, not classes"),
        (("images_001", "images_002"), "are not named like classes"),
    ],
)
def test_folders_of_splits_or_parts_are_no_classes(here, capsys, folders, sentence):
    for name in folders:
        _write(here / name / "1.png", _image("train", 1))
    assert init.main(["mine", f"--images={here}"]) == 2
    assert sentence in capsys.readouterr().err


def test_rows_that_name_an_image_again_are_counted(here, capsys):
    for i in range(12):
        _write(here / f"{i}.png", _image("train", i))
    rows = [(f"{i}.png", _CLASSES[i % 3], 0) for i in range(12)] + [("0.png", "cat", 5), ("1.png", "red", 9)]
    _table(here / "boxes.csv", ("file", "class", "xmin"), rows)
    assert init.main(["mine", f"--images={here}"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "rows of train that name an image again: 2 of 14, 1 of them with another label" in said


def test_a_table_without_labels_is_refused_with_its_columns(here, capsys):
    for i in range(3):
        _write(here / f"{i}.png", _image("train", i))
    _table(here / "all.csv", ("file", "dx"), [(f"{i}.png", _CLASSES[i]) for i in range(3)])
    assert init.main(["mine", f"--images={here}"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "give a table a column 'label' (its columns are 'file', 'dx')" in said
