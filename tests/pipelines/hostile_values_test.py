"""Whatever values the rows of a source have: each row is stored, rejected or filtered, and no row ends the job."""

import decimal
import io
import json
import pathlib
import re
import tarfile
import tempfile

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.base import Embed, Source
from pipelines import embed, schemas, sources, storage
from pipelines.errors import UserError
from pipelines.manifest import Embeddings
from pipelines.sources import Filtered, InputShard, Reject, Sample
from tests.pipelines import tiny_encoders as tiny

_EMBED = Embed(max_image_bytes=100_000)
_SLOW = hypothesis.settings(max_examples=60, deadline=None)


def _check(found, rows: int) -> None:
    """Checks that every row is there once, and that what is stored of it fits the columns."""
    assert len(found) == rows
    for item in found:
        assert isinstance(item, Sample | Reject | Filtered)
        item.member.encode()
        if isinstance(item, Sample):
            text = json.dumps(dict(item.metadata), ensure_ascii=False, sort_keys=True, allow_nan=False)
            pa.array([item.caption, item.url, text], pa.string())
            pa.array([item.label], pa.int32())


def _read(source: Source, path: pathlib.Path, *siblings: pathlib.Path):
    return list(sources.read(InputShard(source, "0", str(path), 0, "", siblings=tuple(map(str, siblings))), _EMBED))


def _tar(path: pathlib.Path, texts: list[bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for number, text in enumerate(texts):
            for suffix, data in (("jpg", b"image"), ("json", text)):
                info = tarfile.TarInfo(f"{number:04d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


# -- JSON --------------------------------------------------------------------------------------

_TEXT = st.text(st.characters(), max_size=8)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(0, 9) | st.floats() | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)
_NAMES = st.sampled_from(["caption", "label", "url", "status", "width", "sha256", "key", "error_message"]) | _TEXT
_OBJECTS = st.lists(st.dictionaries(_NAMES, _JSON, max_size=5), min_size=1, max_size=4)


@_SLOW
@hypothesis.given(_OBJECTS)
def test_any_json_beside_an_image_of_a_tar(objects):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "0.tar"
        _tar(path, [json.dumps(fields).encode() for fields in objects])
        _check(_read(Source(), path), len(objects))


@_SLOW
@hypothesis.given(_OBJECTS)
def test_any_json_lines(objects):
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        (root / "x.jpg").write_bytes(b"image")
        lines = [json.dumps({"url": None, **fields, "path": "x.jpg"}) for fields in objects]
        (root / "t.jsonl").write_text("\n".join(lines))
        source = Source(format="table", path="t.jsonl")
        try:
            shards = sources.plan(source, folder, _EMBED, f"{folder}/listings")
            found = [item for shard in shards for item in sources.read(shard, _EMBED)]
        except UserError as error:
            # A dictionary of all texts finds `URL` beside `url`, too.
            named = set(re.findall("'(\\w+)' (?:and|may each be the)", str(error)))
            assert len(named) > 1 and any(named <= {"url", "path", *fields} for fields in objects)
            return
        _check(found, len(objects))


# -- Arrow -------------------------------------------------------------------------------------

_LONG = st.integers(-(2**63), 2**63 - 1)
_ZONES = st.sampled_from(["UTC", "Europe/Berlin", "+05:30", "Mars/Phobos", "", "+99:99", "\u00e4"])
_UNITS = st.sampled_from(["s", "ms", "us", "ns"])


def _of(values: st.SearchStrategy, kind: pa.DataType) -> st.SearchStrategy:
    return st.lists(st.none() | values, min_size=3, max_size=3).map(lambda found: pa.array(found, kind))


def _times(kind: pa.DataType) -> st.SearchStrategy:
    return _of(_LONG, pa.int64()).map(lambda found: found.view(kind))


_UTF8 = st.text(max_size=6)
_COLUMNS = st.one_of(
    _of(st.booleans(), pa.bool_()),
    _of(_LONG, pa.int64()),
    _of(st.integers(0, 2**64 - 1), pa.uint64()),
    _of(st.integers(0, 5), pa.int8()),
    _of(st.floats(), pa.float64()),
    _of(st.floats(width=16), pa.float16()),
    _of(_UTF8, pa.string()),
    _of(st.binary(max_size=6), pa.binary()),
    # Bytes in a column of texts, which need not be UTF-8.
    _of(st.binary(max_size=6), pa.binary()).map(lambda found: found.view(pa.string())),
    _of(st.sampled_from(["0", "1.0", "x", None]), pa.string()).map(lambda found: found.dictionary_encode()),
    _of(st.decimals(-(10**20), 10**20, places=2), pa.decimal128(38, 2)),
    _of(st.integers(-(10**60), 10**60).map(decimal.Decimal), pa.decimal256(76, 0)),
    _of(st.lists(_UTF8, max_size=3), pa.list_(pa.string())),
    _of(st.fixed_dictionaries({"a": st.none() | _LONG, "b": _UTF8}), pa.struct({"a": pa.int64(), "b": pa.string()})),
    st.tuples(_UNITS, _ZONES).flatmap(lambda pair: _times(pa.timestamp(pair[0], pair[1] or None))),
    _UNITS.flatmap(lambda unit: _times(pa.duration(unit))),
    st.sampled_from(["us", "ns"]).flatmap(lambda unit: _times(pa.time64(unit))),
    _of(st.integers(-(2**31), 2**31 - 1), pa.int32()).map(lambda found: found.view(pa.date32())),
    st.just(pa.nulls(3)),
)
_OWN = st.sampled_from(["caption", "label", "url", "status", "original_width", "sha256", "error_message", "more"])
_TABLES = st.dictionaries(_OWN, _COLUMNS, max_size=4)


def _write(path: pathlib.Path, columns: dict) -> pa.Schema:
    """Writes a table as far as Parquet can hold it; its schema as it is read again."""
    try:
        pq.write_table(pa.table(columns), path, coerce_timestamps=None)
    except (pa.ArrowException, ValueError):
        hypothesis.reject()
    try:
        return pq.read_schema(path)
    except (pa.ArrowException, ValueError):
        hypothesis.reject()


def _has_lists(schema: pa.Schema) -> bool:
    ours = ("label", "url", "caption")
    return any(name in schema.names and pa.types.is_nested(schema.field(name).type) for name in ours)


@_SLOW
@hypothesis.given(_TABLES)
def test_any_column_beside_images_in_parquet(columns):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "0.parquet"
        schema = _write(path, {"image": [b"image"] * 3, **columns})
        try:
            _check(_read(Source(format="img2dataset_parquet"), path), 3)
        except UserError as error:
            assert _has_lists(schema) and "make it a column of single values" in str(error)


@_SLOW
@hypothesis.given(_TABLES)
def test_any_column_of_a_table_beside_a_tar(columns):
    with tempfile.TemporaryDirectory() as folder:
        table, tar = pathlib.Path(folder) / "0.parquet", pathlib.Path(folder) / "0.tar"
        schema = _write(table, {"key": [0, 1, 2], **columns})
        _tar(tar, [b"{}"] * 3)
        try:
            _check(_read(Source(), tar, table), 3)
        except UserError as error:
            assert _has_lists(schema) and "make it a column of single values" in str(error)


@_SLOW
@hypothesis.given(_TABLES)
def test_any_column_of_a_table_of_paths(columns):
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        (root / "x.jpg").write_bytes(b"image")
        _write(root / "t.parquet", {"path": ["x.jpg"] * 3, **columns})
        source = Source(format="table", path="t.parquet")
        try:
            planned = sources.plan(source, folder, _EMBED, f"{folder}/listings")
        except UserError as error:
            assert "write all of them as names or all as numbers" in str(error)
            return
        _check([item for shard in planned for item in sources.read(shard, _EMBED)], 3)


@_SLOW
@hypothesis.given(_TABLES)
def test_any_column_beside_vectors(columns):
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        np.save(root / "img_emb_0.npy", np.ones((3, 2), np.float32))
        schema = _write(root / "metadata_0.parquet", {"more": [1, 2, 3], **columns})
        try:
            _check(_read(Source(format="vectors"), root / "img_emb_0.npy", root / "metadata_0.parquet"), 3)
        except UserError as error:
            assert _has_lists(schema) and "make it a column of single values" in str(error)


# -- From end to end ---------------------------------------------------------------------------

_ODD = [
    {"caption": "\ud800"},
    {"caption": 5},
    {"caption": {"en": "a dog"}},
    {"caption": ["a dog", "one dog"]},
    {"url": "http://x/\udfff"},
    {"url": 5},
    {"label": True},
    {"label": -1},
    {"label": 2**40},
    {"label": "1.0"},
    {"label": [1, 2]},
    {"width": 2**40, "height": True, "original_width": 2**40, "original_height": -5},
    {"size": -1, "big": 2**70, "nested": {"a": [{"b": [1, None, {}]}]}, "nul": "a\0b"},
    {"nan": float("nan"), "infinity": float("inf"), "-infinity": float("-inf")},
    {"\ud83d": 1},
    {"long": "x" * (1 << 21)},
    {"status": "published", "error_message": "mine", "exif": "{}"},
    {"status": "failed_to_download", "error_message": "\ud800" * 9},
    {"sha256": 5},
    {"sha256": "\ud800"},
    {"similarity": "high"},
]
_RAW = [b'{"a": 1, "a": 2, "\\u0000": "\\u0000"}', b'{"a": 1e999}', b"[]", b"5", b"null", b"{"]
_RAW.append(b'{"a": ' + b"9" * 5000 + b"}")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder") / "image"
    tiny.save_image_encoder(folder)
    return folder


def _embed(root: pathlib.Path, encoder, *flags: str):
    """Embeds a memory twice; returns how many rows it read, those with vectors, why others are rejects, and others."""
    (root / "config.py").write_text("from configs.base import Config\ndef get_config():\n    return Config()\n")
    argv = [f"--config={root}/config.py", f"--config.data={root}", f"--config.workdir={root}/out"]
    argv += [f"--config.encoders.key={encoder}", "--config.encoders.value_image=", "--config.encoders.value_text="]
    argv += ["--config.filters.leakage=0", "--config.embed.max_rejects_share=1", *flags]
    assert embed.main(argv) == 0
    memory = Embeddings(f"{root}/out/memory")
    marker = storage.read_json(f"{root}/out/memory/_done/{next(iter(root.glob('out/memory/*.parquet'))).stem}.json")
    assert marker["rows_in"] == marker["rows_out"] + marker["rows_rejected"] + marker["rows_filtered"]
    assert marker["rows_out"] == memory.rows
    columns = schemas.embeddings({"key": tiny.DIM}).names
    rows = {row["member"]: row for row in memory.read(0, columns).to_pylist()}
    unused = []
    for folder, schema in (("_rejects", schemas.REJECTS), ("_filtered", schemas.FILTERED)):
        (path,) = (root / "out/memory" / folder).glob("*.parquet")
        unused.append(schemas.read(str(path), schema.names).to_pylist())
    rejects, filtered = unused
    assert embed.main(argv) == 0
    return marker["rows_in"], rows, {row["member"]: row["error_type"] for row in rejects}, filtered


def test_nasty_json_in_a_tar_from_end_to_end(tmp_path, encoder):
    texts = [json.dumps(fields).encode() for fields in _ODD] + _RAW
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for number, text in enumerate(texts):
            for suffix, data in (("png", tiny.image_bytes(number)), ("json", text)):
                info = tarfile.TarInfo(f"{number:02d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    rows_in, rows, rejects, filtered = _embed(tmp_path, encoder, "--config.memory.path=0.tar")
    assert rows_in == len(texts)
    stored = {int(member[:2]) for member in rows}
    assert stored == {3, 9, 11, 12, 13, 16, 18, 20, 21, 22}
    assert rejects == {
        **{f"{n:02d}.png": "BadMetadata" for n in (0, 4, 14, 19, 23, 24, 25, 26, 27)},
        **{f"{n:02d}.png": "BadCaption" for n in (1, 2)},
        **{f"{n:02d}.png": "BadLabel" for n in (6, 7, 8, 10)},
        **{"05.png": "BadUrl", "15.json": "TooLarge"},
    }
    assert [(row["member"], row["filter"]) for row in filtered] == [("17.png", "status")]
    assert (rows["03.png"]["caption"], rows["09.png"]["label"]) == ("a dog", 1)
    # The columns have the size of the image, the metadata what the source says.
    assert (rows["11.png"]["width"], rows["11.png"]["height"]) == (24, 20)
    assert json.loads(rows["11.png"]["metadata"])["width"] == 2**40
    assert json.loads(rows["12.png"]["metadata"]) == _ODD[12]
    assert rows["13.png"]["metadata"] is None
    assert json.loads(rows["16.png"]["metadata"]) == {"status": "published"}
    assert json.loads(rows["21.png"]["metadata"]) == {"a": 2, "\0": "\0"}


def test_nasty_tables_of_vectors_from_end_to_end(tmp_path, encoder):
    """Sizes that no image has, and vectors that no type can hold or that point nowhere."""
    (tmp_path / "img_emb").mkdir()
    (tmp_path / "metadata").mkdir()
    vectors = np.ones((9, tiny.DIM), np.float32)
    vectors[5], vectors[6], vectors[7], vectors[8] = 0, 1e-30, 70_000, np.nan
    np.save(tmp_path / "img_emb/img_emb_0.npy", vectors)
    sizes = [640, 2**40, -1, 0, None, 1, 1, 1, 1]
    table = {"original_width": sizes, "original_height": [True] * 9, "url": [f"http://x/{i}" for i in range(9)]}
    pq.write_table(pa.table(table), tmp_path / "metadata/metadata_0.parquet")
    flags = ["--config.memory.format=vectors", "--config.memory.path=img_emb/*.npy"]
    flags += ["--config.encoders.normalize=false", "--config.encoders.dtype=float16"]
    rows_in, rows, rejects, _ = _embed(tmp_path, encoder, *flags, "--config.encoders.key=precomputed:x")
    assert rows_in == 9 and list(rows) == ["0", "1", "2", "3", "4"]
    assert [(row["width"], row["height"]) for row in rows.values()] == [
        *((640, None), (None, None), (None, None), (0, None), (None, None))
    ]
    assert rejects == {"5": "BadVector", "6": "BadVector", "7": "NotFinite", "8": "BadVector"}
