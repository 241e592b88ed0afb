"""Arrow streams: as `datasets` writes them, by its layout and by itself; cut off, claiming too much, compressed."""

import json
import os
import subprocess

import pyarrow as pa
import pytest

from configs.base import Embed, Source
from pipelines import sources
from pipelines.errors import UserError
from pipelines.sources import Reject, Sample
from tests.isolated import python_with

_EMBED = Embed(max_image_bytes=1000)
_FEATURES = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
_SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("label", pa.int64()),
        ("text", pa.string()),
    ],
    metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})},
)
_ROWS = [
    {"image": {"bytes": b"one", "path": "a.jpg"}, "label": 1, "text": "a dog"},
    {"image": {"bytes": b"two", "path": None}, "label": 0, "text": None},
    {"image": {"bytes": None, "path": "/etc/passwd"}, "label": 0, "text": "elsewhere"},
    {"image": {"bytes": b"x" * 1001, "path": None}, "label": 0, "text": "large"},
    {"image": {"bytes": b"five", "path": None}, "label": None, "text": "no label"},
]


def _write(path, batches=(2, 3), schema=_SCHEMA, rows=_ROWS, **options):
    first = 0
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema, **options) as writer:
        for count in batches:
            writer.write_batch(pa.RecordBatch.from_pylist(rows[first : first + count], schema))
            first += count
    return path


def _shards(path):
    return sources.plan(Source("arrow", str(path)), "", _EMBED, "")


def _read(path):
    (shard,) = _shards(path)
    return list(sources.read(shard, _EMBED))


def test_rows_of_a_split_that_was_saved(tmp_path):
    _write(tmp_path / "data-00000-of-00002.arrow")
    _write(tmp_path / "data-00001-of-00002.arrow", (1,))
    for name in ("state.json", "dataset_info.json"):
        (tmp_path / name).write_text("{}")
    source = Source("arrow", str(tmp_path))
    naming = sources.find_names(source, "", _EMBED)
    assert naming.names == ("cat", "dog") and naming.declared
    first, second = _shards(tmp_path)
    assert (first.name, second.name) == ("data-00000-of-00002", "data-00001-of-00002")
    one, two, *rest = sources.read(first, _EMBED)
    assert one == Sample("0", b"one", "a dog", 1, metadata={"image.path": "a.jpg"}) or one.image == b"one"
    assert (one.caption, one.label, two.caption, two.label, two.image) == ("a dog", 1, None, 0, b"two")
    assert [getattr(item, "error_type", None) for item in rest] == ["MissingImage", "TooLarge", None]
    assert rest[2].label is None and rest[2].member == "4"
    assert [item.image for item in sources.read(second, _EMBED)] == [b"one"]


def test_images_are_read_again(tmp_path):
    path = _write(tmp_path / "0.arrow")
    source = sources.resolve(Source("arrow", str(path)), "")
    assert sources.read_image(source, str(path), "1", _EMBED) == b"two"


def test_the_folder_of_all_splits_names_them(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        _write(tmp_path / split / "data-00000-of-00001.arrow")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(UserError, match=r"has no \*.arrow; .* or one of its folders, such as test, train"):
        _shards(tmp_path)
    assert len(_shards(tmp_path / "train")) == 1


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed_batches_are_refused(tmp_path, codec):
    (reject,) = _read(_write(tmp_path / "0.arrow", options=pa.ipc.IpcWriteOptions(compression=codec)))
    assert reject.error_type == "BrokenArrow" and "its batches are compressed" in reject.message


@pytest.mark.parametrize("nested", [False, True])
def test_dictionaries_are_refused(tmp_path, nested):
    values = pa.array(["a", "b"]).dictionary_encode()
    values = pa.StructArray.from_arrays([values], ["in"]) if nested else values
    table = pa.table({"image": [b"one", b"two"], "text": values})
    with pa.OSFile(str(tmp_path / "0.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    (reject,) = _read(tmp_path / "0.arrow")
    assert reject.error_type == "BrokenArrow" and "dictionaries and tensors are not read" in reject.message


def test_a_stream_that_breaks_off_keeps_the_rows_before(tmp_path):
    data = _write(tmp_path / "0.arrow").read_bytes()
    for cut in range(0, len(data) - 8, 7):
        (tmp_path / "0.arrow").write_bytes(data[:cut])
        *before, last = _read(tmp_path / "0.arrow") or [None]
        # A stream may end behind a batch without a mark.
        assert last is None or isinstance(last, Sample) or last.error_type in ("BrokenArrow", "TooLarge")
        assert [item.image for item in before if isinstance(item, Sample)] == [b"one", b"two"][: len(before)]


def test_other_files_are_rejects(tmp_path):
    path = tmp_path / "0.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, _SCHEMA) as writer:
        writer.write_batch(pa.RecordBatch.from_pylist(_ROWS, _SCHEMA))
    for data, said in (
        (path.read_bytes(), "for random access"),
        (b"", "is empty"),
        (b"\xff\xd8\xff\xe0 a JPEG", "not a stream"),
        (b"\xff" * 4 + (1 << 30).to_bytes(4, "little") + bytes(100), "a header claims 1,073,741,824 bytes"),
        (b"\xff" * 4 + (64).to_bytes(4, "little") + b"\xff" * 64, ""),
    ):
        path.write_bytes(data)
        (reject,) = _read(path)
        assert isinstance(reject, Reject) and reject.error_type == "BrokenArrow" and said in reject.message


def test_no_flipped_bit_ends_the_job(tmp_path):
    data = _write(tmp_path / "0.arrow").read_bytes()
    for place in range(0, 8 * len(data), 11):
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        (tmp_path / "0.arrow").write_bytes(changed)
        try:
            assert len(_read(tmp_path / "0.arrow")) <= 6
        except UserError as error:
            # The name of a column was hit.
            assert "has no column" in str(error) or "column" in str(error)


_SAVED = """
import datasets, io, sys
from PIL import Image
def image(shade):
    file = io.BytesIO()
    Image.new("L", (2, 2), shade).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}
features = datasets.Features(
    image=datasets.Image(), label=datasets.ClassLabel(names=["cat", "dog"]), text=datasets.Value("string")
)
rows = {"image": [image(50 * n) for n in range(5)], "label": [1, 0, 0, 1, 1], "text": list("abcde")}
made = datasets.Dataset.from_dict(rows, features=features)
made.save_to_disk(sys.argv[1] + "/saved", num_shards=2)
made.to_parquet(sys.argv[1] + "/saved.parquet")
print([bytes(row["image"]["bytes"]).hex() for row in made.cast_column("image", datasets.Image(decode=False))])
"""


@pytest.mark.slow
def test_what_datasets_writes(tmp_path):
    python = python_with(tmp_path / "tools", "datasets==5.2.0", "pillow")
    env = {"PATH": os.environ["PATH"], "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([python, "-c", _SAVED, str(tmp_path)], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    images = [bytes.fromhex(data) for data in json.loads(done.stdout.splitlines()[-1].replace("'", '"'))]
    for source in (
        Source("arrow", str(tmp_path / "saved")),
        Source("img2dataset_parquet", str(tmp_path / "saved.parquet")),
    ):
        assert sources.find_names(source, "", _EMBED).names == ("cat", "dog")
        shards = sources.plan(source, "", _EMBED, "")
        found = [sample for shard in shards for sample in sources.read(shard, _EMBED)]
        assert [(s.image, s.label, s.caption) for s in found] == list(
            zip(images, [1, 0, 0, 1, 1], "abcde", strict=True)
        )
