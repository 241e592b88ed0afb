"""A table beside images, in each kind that Hugging Face's imagefolder reads."""

import csv
import dataclasses
import json
import os
import subprocess

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from configs.base import Embed, Source
from pipelines import sources
from pipelines.errors import UserError
from pipelines.sources import Sample
from tests.isolated import python_with
from tests.pipelines.sources.listed import read, write_images

_SOURCE = Source(format="image_folder", path="photos/train")
_ROWS = [
    {"file_name": "deep/1.jpg", "text": "a dog", "label": "dog"},
    {"file_name": "0.jpg", "text": "a cat", "label": "cat"},
]


def _write(folder, kind, rows=tuple(_ROWS)):
    path = folder / f"metadata.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    elif kind == "jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    else:
        path.write_text("".join(",".join(cells) + "\n" for cells in [list(rows[0]), *map(dict.values, rows)]))


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_the_table_says_caption_and_class_of_each_image(tmp_path, kind):
    folder = tmp_path / "photos" / "train"
    images = write_images(folder, "0.jpg", "deep/1.jpg", "deep/2.jpg", "3.png", "notes.txt")
    _write(folder, kind)
    assert read(tmp_path, _SOURCE) == [
        Sample("deep/1.jpg", images["deep/1.jpg"], "a dog", 1),
        Sample("0.jpg", images["0.jpg"], "a cat", 0),
    ]
    assert sources.find_names(_SOURCE, str(tmp_path), Embed()).names == ("cat", "dog")
    assert dict(sources.passed_over(_SOURCE, str(tmp_path))) == {".txt": 1, ".jpg": 1, ".png": 1}


def test_a_path_that_leaves_the_folder_and_a_missing_image_are_rejects(tmp_path):
    folder = tmp_path / "photos" / "train"
    write_images(folder, "0.jpg")
    write_images(tmp_path, "secret.jpg")
    _write(folder, "csv", [{"file_name": name} for name in ("0.jpg", "../../secret.jpg", "gone.jpg", "/etc/passwd")])
    kinds = [getattr(item, "error_type", None) for item in read(tmp_path, _SOURCE)]
    assert kinds == [None, "PathOutsideRoot", "MissingImage", "PathOutsideRoot"]


def test_what_could_be_meant_otherwise_is_named(tmp_path):
    train, test = (tmp_path / "photos" / name for name in ("train", "test"))
    for folder in (train, test):
        write_images(folder, "0.jpg")
        _write(folder, "csv", [{"file_name": "0.jpg"}])
    above = dataclasses.replace(_SOURCE, path="photos")
    with pytest.raises(
        UserError, match="its images are described in test/, train/; make one of these folders the path"
    ):
        read(tmp_path, above)
    _write(train, "jsonl")
    with pytest.raises(UserError, match="has metadata.csv and metadata.jsonl; keep one of them"):
        read(tmp_path, _SOURCE)
    (train / "metadata.jsonl").unlink()
    _write(train, "csv", [{"camera": "x"}])
    with pytest.raises(UserError, match="metadata.csv: has no column 'file_name'; .* or rename the file"):
        read(tmp_path, _SOURCE)
    _write(test, "csv", [{"camera": "x"}])
    # In a folder of class folders, a table of something else is passed over.
    assert [item.caption for item in read(tmp_path, above)] == ["test", "train"]
    (train / "metadata.csv").unlink()
    with pytest.raises(UserError, match="no image has a .text beside it, .* there is no metadata.csv or"):
        read(tmp_path, dataclasses.replace(_SOURCE, fields=("caption=text",)))


_LOADED = """
import datasets, json, os, sys
made = datasets.load_dataset("imagefolder", data_dir=sys.argv[1], split="train")
made = made.cast_column("image", datasets.Image(decode=False))
print(json.dumps(sorted([os.path.basename(row["image"]["path"]), row["text"], row["label"]] for row in made)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_datasets_reads_the_same_rows(tmp_path, suffix):
    folder = tmp_path / "images"
    (folder / "in").mkdir(parents=True)
    rows = [(f"{'in/' if n % 2 else ''}{n}.png", f"a picture, {n}", n % 3) for n in range(7)]
    for name, _, _ in rows:
        Image.new("L", (3, 3), 9).save(folder / name)
    with open(folder / f"metadata.{suffix}", "w", newline="") as file:
        if suffix == "csv":
            csv.writer(file).writerows([("file_name", "text", "label"), *rows])
        else:
            names = ("file_name", "text", "label")
            file.writelines(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows)
    python = python_with(tmp_path / "tools", "datasets==5.2.0", "pillow")
    env = {"PATH": os.environ["PATH"], "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([python, "-c", _LOADED, str(folder)], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    source = Source("image_folder", str(folder))
    (shard,) = sources.plan(source, "", Embed(), str(tmp_path / "listed"))
    ours = [[os.path.basename(s.member), s.caption, s.label] for s in sources.read(shard, Embed())]
    assert sorted(ours) == json.loads(done.stdout.splitlines()[-1])
