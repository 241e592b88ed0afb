"""`web-memory init` on folders as people have them: what it prints, and that the config reads the right rows."""

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.base import Embed
from index import build, neighbors
from pipelines import embed, options, sources
from pipelines.manifest import Embeddings, Neighbors
from tests.pipelines import tiny_encoders as tiny
from workflow import init

_CLASSES = ("cat", "dog", "red")
_EACH = 10


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def _images(root, each=_EACH, seed=0):
    """Writes class folders; returns path below the root and class of each image."""
    rows = []
    for place, name in enumerate(_CLASSES):
        (root / name).mkdir(parents=True)
        for i in range(each):
            (root / name / f"{i}.png").write_bytes(tiny.image_bytes(seed + 100 * place + i))
            rows.append((f"{name}/{i}.png", place))
    return rows


def _one_folder(root):
    _images(root)


def _split_folders(root):
    for seed, name in enumerate(("training", "Validation", "test")):
        _images(root / name, seed=1000 * seed)


def _lists(root):
    rows = _images(root / "images")
    for place, split in enumerate(("train", "val", "test")):
        chosen = rows if split == "train" else rows[place::3]
        (root / f"mine_{split}.txt").write_text("".join(f"{path} {label}\n" for path, label in chosen))
    (root / "mine_train_noisy.txt").write_text("cat/0.png 0\n")
    (root / "classnames.txt").write_text("\n".join(_CLASSES))


def _csv(root):
    rows = _images(root / "images")
    lines = [f"images/{path},{_CLASSES[label]},a {_CLASSES[label]}" for path, label in rows]
    (root / "labels.csv").write_text("\n".join(["filepath,species,title", *lines]) + "\n")


def _json_lines(root):
    rows = _images(root)
    lines = [json.dumps({"file_name": path, "label": label, "text": "a dog"}) for path, label in rows]
    (root / "metadata.jsonl").write_text("\n".join(lines))


def _coco(root):
    rows = _images(root / "images")
    images = [{"id": i, "file_name": path} for i, (path, _) in enumerate(rows)]
    labels = [{"id": i, "image_id": i, "category_id": label} for i, (_, label) in enumerate(rows)]
    categories = [{"id": i, "name": name} for i, name in enumerate(_CLASSES)]
    text = json.dumps({"images": images, "annotations": labels, "categories": categories})
    (root / "annotations.json").write_text(text)


def _parquet(root):
    feature = {"label": {"names": list(_CLASSES), "_type": "ClassLabel"}}
    schema = pa.schema({"image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "label": pa.int64()})
    schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": feature}})})
    (root / "data").mkdir(parents=True)
    for seed, split in enumerate(("train", "validation", "test")):
        rows = [{"image": {"bytes": tiny.image_bytes(100 * seed + i), "path": None}, "label": i % 3} for i in range(9)]
        pq.write_table(pa.Table.from_pylist(rows, schema), root / "data" / f"{split}-00000-of-00001.parquet")


LAYOUTS = {
    "class folders": _one_folder,
    "split folders": _split_folders,
    "lists": _lists,
    "csv": _csv,
    "json lines": _json_lines,
    "coco": _coco,
    "parquet": _parquet,
}
# Images of train, val and test.
ROWS = {"split folders": (30, 30, 30), "lists": (30, 10, 10), "parquet": (9, 9, 9)}
# Of 10 images of each of 3 classes, 8, 1 and 1.
CUT = (24, 3, 3)


def _pairs(root):
    for shard in range(2):
        some = [(f"{shard}{i:04d}", tiny.image_bytes(5000 + 10 * shard + i), f"a red dog {i}") for i in range(6)]
        tiny.write_tar(root / f"{shard:05d}.tar", some)


def _made(root, layout, capsys, *flags):
    """Writes a layout, runs init, and returns the config and what was printed."""
    LAYOUTS[layout](root)
    assert init.main(["mine", f"--images={root}", *flags]) == 0
    return options.load("mine.py"), " ".join(capsys.readouterr().out.split())


def _items(source, tmp_path):
    shards = sources.plan(source, "", Embed(), str(tmp_path / "listings"))
    return [item for shard in shards for item in sources.read(shard, Embed())]


def _count(source, tmp_path):
    return sum(isinstance(item, sources.Sample) for item in _items(source, tmp_path))


def _rows(folder):
    return sum(Embeddings(folder).shard_rows.values())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_config_reads_every_split_of_each_layout(layout, tmp_path, capsys):
    config, printed = _made(tmp_path / "in", layout, capsys)
    assert tuple(_count(source, tmp_path) for source in config.queries.values()) == ROWS.get(layout, CUT)
    assert "3, such as " in printed
    assert "memory: the training set" in printed and "No pairs were given" in printed
    assert "web-memory run --config=mine.py" in printed
    assert ("There is no val and no test set: each class is cut into 80% train, 10% val, 10% test." in printed) == (
        layout not in ROWS
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_file_is_short_and_says_what_it_is_of(layout, tmp_path, capsys):
    _made(tmp_path / "in", layout, capsys)
    lines = (tmp_path / "work/mine.py").read_text().splitlines()
    assert 20 <= len(lines) <= 45 and max(map(len, lines)) <= 200
    assert lines[0].startswith('"""mine, as web-memory init found it')


def test_lists_take_the_names_beside_them_and_say_what_is_not_read(tmp_path, capsys):
    config, printed = _made(tmp_path / "in", "lists", capsys)
    assert config.class_names == str(tmp_path / "in/classnames.txt")
    assert config.train_set.path.endswith("/mine_train.txt")
    assert config.memory.class_names == config.class_names
    assert "note: not read: 'mine_train_noisy.txt'" in printed
    assert "0 'cat'" in printed


def test_labels_that_do_not_count_from_0_are_made_to(tmp_path, capsys):
    root = tmp_path / "in"
    _lists(root)
    for path in (root / "mine_train.txt", root / "mine_val.txt", root / "mine_test.txt"):
        lines = [line.rsplit(" ", 1) for line in path.read_text().splitlines()]
        path.write_text("".join(f"{member} {int(label) + 1}\n" for member, label in lines))
    assert init.main(["mine", f"--images={root}"]) == 0
    config, printed = options.load("mine.py"), " ".join(capsys.readouterr().out.split())
    assert "note: labels count from 1" in printed and "0 'cat'" in printed
    assert config.class_names == config.memory.class_names == str(root / "classnames.txt")
    assert {source.first_label for source in (config.memory, *config.queries.values())} == {1}
    for split, source in config.queries.items():
        assert {item.label for item in _items(source, tmp_path / split)} == {0, 1, 2}


def test_a_tables_numbers_with_gaps_are_made_names(tmp_path, capsys):
    root = tmp_path / "in"
    rows = [f"{path},{(7, 9, 12)[label]}\n" for path, label in _images(root)]
    (root / "labels.csv").write_text("path,label\n" + "".join(rows))
    assert init.main(["mine", f"--images={root / 'labels.csv'}"]) == 0
    config, printed = options.load("mine.py"), " ".join(capsys.readouterr().out.split())
    assert "labels are numbers with gaps, such as 7 and 12, and are made names" in printed
    assert "'class 7'" in printed and not any("caption" in field for field in config.memory.fields)
    for split, source in config.queries.items():
        assert {item.label for item in _items(source, tmp_path / split)} == {0, 1, 2}


def test_columns_of_other_names_are_found(tmp_path, capsys):
    config, printed = _made(tmp_path / "in", "csv", capsys)
    assert "label=species" in config.train_set.fields
    assert "'images/cat/0.png', caption 'a cat', label 'cat'" in printed


def test_pairs_are_the_memory(tmp_path, capsys):
    _pairs(tmp_path / "pairs")
    config, printed = _made(tmp_path / "in", "class folders", capsys, f"--pairs={tmp_path / 'pairs'}")
    assert (config.memory.format, config.memory.path) == ("img2dataset", f"{tmp_path}/pairs/*.tar")
    assert "memory: img2dataset tars" in printed and "12 of the 12 rows" in printed
    assert _count(config.memory, tmp_path) == 12


def test_a_folder_with_one_tar_may_get_more_and_a_named_file_is_that_file(tmp_path, capsys):
    _pairs(tmp_path / "pairs")
    for tar in sorted((tmp_path / "pairs").glob("*.tar"))[1:]:
        tar.unlink()
    (tar,) = (tmp_path / "pairs").glob("*.tar")
    config, _ = _made(tmp_path / "in", "class folders", capsys, f"--pairs={tmp_path / 'pairs'}")
    assert config.memory.path == f"{tmp_path}/pairs/*.tar"
    config, _ = _made(tmp_path / "other", "class folders", capsys, f"--pairs={tar}", "--force")
    assert config.memory.path == str(tar)


@pytest.mark.parametrize("name", ["a,b", "{x}", 'it\'s "so"', "line\nbreak", "st*r[1]", '"""', " lead"])
@pytest.mark.parametrize("layout", ["class folders", "lists", "csv", "parquet"])
def test_hostile_names_give_a_config_that_works(name, layout, tmp_path, capsys):
    config, _ = _made(tmp_path / name, layout, capsys)
    assert tuple(_count(source, tmp_path) for source in config.queries.values()) == ROWS.get(layout, CUT)


def test_files_that_are_no_images_are_counted(tmp_path, capsys):
    (tmp_path / "in/cat").mkdir(parents=True)
    (tmp_path / "in/cat/Thumbs.db").write_text("x")
    (tmp_path / "in/cat").rename(tmp_path / "kept")
    _images(tmp_path / "in")
    (tmp_path / "kept/Thumbs.db").rename(tmp_path / "in/cat/Thumbs.db")
    assert init.main(["mine", f"--images={tmp_path / 'in'}"]) == 0
    assert "passed over: 1 .db of train" in capsys.readouterr().out


def test_a_config_that_differs_is_kept(tmp_path, capsys):
    _images(tmp_path / "in")
    flags = ["mine", f"--images={tmp_path / 'in'}"]
    assert init.main(flags) == 0 and init.main(flags) == 0
    written = (tmp_path / "work/mine.py").read_text()
    (tmp_path / "work/mine.py").write_text("# mine\n")
    assert init.main(flags) == 2
    assert "error: mine.py: exists and differs; give another name, or --force" in capsys.readouterr().err
    assert (tmp_path / "work/mine.py").read_text() == "# mine\n"
    assert init.main([*flags, "--force"]) == 0
    assert (tmp_path / "work/mine.py").read_text() == written


def test_what_is_not_understood_is_said(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for name in ("a.doc", "b.doc", "c.pdf"):
        (tmp_path / "in" / name).write_text("x")
    assert init.main(["mine", f"--images={tmp_path / 'in'}"]) == 2
    error = capsys.readouterr().err
    assert "is not understood; it has 2 .doc, 1 .pdf, first 'a.doc', 'b.doc', 'c.pdf'; known are " in error
    assert "class folders (CLASS/*.jpg)" in error and not os.path.exists("mine.py")


def test_a_class_may_have_the_name_of_a_split(tmp_path, capsys):
    _images(tmp_path / "in")
    (tmp_path / "in/red").rename(tmp_path / "in/train")
    assert init.main(["mine", f"--images={tmp_path / 'in'}"]) == 0
    assert "classes 3, such as 'cat', 'dog', 'train'" in " ".join(capsys.readouterr().out.split())


def test_a_table_without_labels_gives_way_to_class_folders_and_is_said(tmp_path, capsys):
    _images(tmp_path / "in")
    (tmp_path / "in/sizes.csv").write_text("path,bytes\ncat/0.png,3\n")
    assert init.main(["mine", f"--images={tmp_path / 'in'}"]) == 0
    assert options.load("mine.py").train_set.format == "image_folder"
    assert "note: not read: the table, which has no labels" in capsys.readouterr().out


def test_small_classes_keep_a_training_image_and_are_said(tmp_path, capsys):
    _images(tmp_path / "in", each=2)
    assert init.main(["mine", f"--images={tmp_path / 'in'}"]) == 0
    config, printed = options.load("mine.py"), " ".join(capsys.readouterr().out.split())
    assert _count(config.train_set, tmp_path) >= 3
    assert "classes that are too small for that: 3 of 3" in printed


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "name the config"),
        (["../x", "--images=x"], "name the config"),
        (["model", "--images=x"], "would hide a module"),
        (["random", "--images=x"], "would hide a module"),
        (["mine"], "--images is missing"),
        (["mine", "--images=/no/such"], "holds nothing"),
        (["mine", "--images=x", "--config.train.k=3"], "takes no fields"),
        (["mine", "--image=x"], "unknown flag; did you mean '--images'?"),
    ],
)
def test_mistakes_are_one_sentence(argv, words, capsys):
    assert init.main(argv) == 2
    assert words in capsys.readouterr().err


def test_images_without_classes_are_refused(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/list.csv").write_text("path,size\na.png,3\n")
    (tmp_path / "in/a.png").write_bytes(tiny.image_bytes(0))
    assert init.main(["mine", f"--images={tmp_path / 'in'}"]) == 2
    assert "its rows have no labels" in capsys.readouterr().err


def test_vectors_of_clip_retrieval_are_pairs(tmp_path, capsys):
    _images(tmp_path / "in")
    for kind in ("img_emb", "text_emb", "metadata"):
        (tmp_path / "pairs" / kind).mkdir(parents=True)
    for kind in ("img_emb", "text_emb"):
        rows = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
        np.save(tmp_path / f"pairs/{kind}/{kind}_0000.npy", rows)
    pq.write_table(pa.table({"caption": ["a dog"] * 5}), tmp_path / "pairs/metadata/metadata_0000.parquet")
    pairs = tmp_path / "pairs"
    assert init.main(["mine", f"--images={tmp_path / 'in'}", f"--pairs={pairs}"]) == 0
    config = options.load("mine.py")
    assert config.memory.format == "vectors" and _count(config.memory, tmp_path) == 5
    assert "TO DO: the memory is vectors" in capsys.readouterr().out
    assert config.encoders.value_text == ("precomputed:texts",) and config.train.values == ("text",)


def _npz(root):
    root.mkdir()
    for seed, split in enumerate(("train", "val", "test")):
        rows = np.random.default_rng(seed).normal(size=(9, 4)).astype(np.float32)
        np.savez(root / f"{split}.npz", X=rows, y=np.arange(9) % 3)


def test_vectors_with_labels_need_no_images(tmp_path, capsys):
    _npz(tmp_path / "in")
    assert init.main(["mine", f"--images={tmp_path / 'in'}"]) == 0
    config = options.load("mine.py")
    assert tuple(_count(source, tmp_path) for source in config.queries.values()) == (9, 9, 9)
    assert config.encoders.key == "precomputed:images" and config.train.values == ("image",)
    argv = ["--config=mine.py", "--config.filters.leakage=0", "--config.index.searcher=exact", "--config.index.k=3"]
    for stage in (embed, build, neighbors):
        assert stage.main([*argv, "--config.train_set.fields=", "--runner=FnApiRunner"]) == 0
    assert _rows("out/mine/memory") == 9
    # A row of the memory has a value as well, and is still the same image as a row of train, which has none.
    assert Embeddings("out/mine/memory").encoders.keys() == {"key", "value_image"}
    assert set(Neighbors.open("out/mine/neighbors").split("train")["num_excluded"].to_pylist()) == {1}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    tiny.save_image_encoder(folder / "image")
    tiny.save_text_encoder(folder / "text")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("with_pairs", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_embed_takes_the_config(layout, with_pairs, tmp_path, capsys, encoders):
    _pairs(tmp_path / "pairs")
    config, _ = _made(tmp_path / "in", layout, capsys, *([f"--pairs={tmp_path / 'pairs'}"] if with_pairs else []))
    texts = f"--config.encoders.value_text={encoders / 'text'}" if config.encoders.value_text else ""
    flags = [
        "--config=mine.py",
        f"--config.encoders.key={encoders / 'image'}",
        f"--config.encoders.value_image={encoders / 'image'}",
        *([texts] if texts else []),
        "--config.filters.leakage=0",
    ]
    assert embed.main(flags) == 0
    expected = dict(zip(("train", "val", "test"), ROWS.get(layout, CUT), strict=True))
    for split, rows in expected.items():
        assert _rows(f"out/mine/queries/{split}") == rows
    assert _rows("out/mine/memory") == (12 if with_pairs else expected["train"])
