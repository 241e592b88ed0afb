"""Fuzzes the readers: files of every format with changed bytes, in a process that may crash.

    python -m tests.pipelines.sources.fuzz FORMAT SECS SEED FOLDER

For any bytes, a reader may only yield samples, rejects and filtered rows, or raise a `UserError`, in bounded time and
memory. FOLDER/case contains the files of the current case, so after a crash it contains those that caused it. A new
format is one entry of `FORMATS`.
"""

import dataclasses
import io
import json
import random
import re
import resource
import shutil
import signal
import struct
import sys
import tarfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from configs.base import Embed, Source
from pipelines import sources
from pipelines.errors import UserError

EMBED = Embed(max_image_bytes=1 << 16, list_shard_rows=8)
_CASE_SECS = 10
_GROWTH_BYTES = 1 << 29
_ADDRESS_SPACE_BYTES = 12 << 30
_MAX_ITEMS = 100_000
_NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 1 << 15, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1]

Files = dict[str, bytes]


@dataclasses.dataclass(frozen=True)
class Format:
    """How a format is fuzzed.

    Attributes:
        source: of the files, with paths relative to their folder.
        seeds: makes whole files, by name, of several kinds.
        repair: corrects checksums, so that the code behind their checks is reached, too.
    """

    source: Source
    seeds: Callable[[], list[Files]]
    repair: Callable[[bytes], bytes] = bytes


def _tar(kind: int, members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.pax_headers = {"comment": "x", "GNU.sparse.major": "1"} if name.startswith("s") else {}
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _tars() -> list[Files]:
    metadata = json.dumps({"a": [1, "x"], "url": "u"}).encode()
    names = ["0", "1", "l" * 120, "3"]
    parts = {".jpg": b"\xff\xd8" * 20, ".txt": b"a dog", ".json": metadata, ".cls": b"5"}
    members = {f"{name}{part}": data for name in names for part, data in parts.items()} | {"s.jpg": b"1\n0\n1\n"}
    plain = [_tar(kind, members) for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]
    table = _parquet(pa.table({"key": ["0", "1"], "similarity": [0.5, None], "status": ["success", "failed"]}))
    packed = {"0.tar.zst": zstandard.compress(plain[0])}
    return [*({"0.tar": data} for data in plain), {"0.tar": plain[0], "0.parquet": table}, packed]


def _repair_tar(data: bytes) -> bytes:
    out = bytearray(data)
    for start in range(0, len(out) - 511, 512):
        if out[start + 257 : start + 262] == b"ustar":
            out[start + 148 : start + 156] = b" " * 8
            out[start + 148 : start + 156] = b"%06o\0 " % sum(out[start : start + 512])
    return bytes(out)


def _parquet(table: pa.Table, **options: object) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


def _tables() -> list[Files]:
    rows = 30
    table = pa.table(
        {
            "key": [f"{i:05d}" for i in range(rows)],
            "jpg": [None if i % 7 == 0 else b"\xff\xd8" * i for i in range(rows)],
            "caption": [None if i % 5 == 0 else f"text {i % 3}" for i in range(rows)],
            "status": ["success"] * rows,
            "similarity": [i / rows for i in range(rows)],
            "tags": [["a", "b"]] * rows,
            "box": [{"x": i, "y": {"z": "q"}} for i in range(rows)],
            "when": pa.array(range(rows), pa.timestamp("ns", "UTC")),
        }
    )
    images = [{"bytes": b"x" * i, "path": "p"} for i in range(rows)]
    nested = pa.table({"image": images, "label": pa.array(range(rows), pa.int8())})
    kinds = [
        {"compression": "none", "row_group_size": 10},
        {"compression": "none", "use_dictionary": False, "data_page_version": "2.0"},
        {"compression": "snappy", "store_schema": False},
        {"compression": "zstd", "use_dictionary": ["jpg"], "data_page_size": 64},
        {"compression": "gzip", "use_byte_stream_split": ["similarity"], "use_dictionary": False},
        {"use_dictionary": False, "column_encoding": {"jpg": "DELTA_BYTE_ARRAY", "caption": "DELTA_LENGTH_BYTE_ARRAY"}},
    ]
    whole = [_parquet(table, **options) for options in kinds] + [_parquet(nested), _parquet(nested, compression="none")]
    return [{"0.parquet": data} for data in whole]


def _masked(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _records() -> list[Files]:
    def field(number: int, data: bytes) -> bytes:
        return bytes([number << 3 | 2, len(data)]) + data

    features = {b"jpg": (1, b"\xff\xd8"), b"txt": (1, b"a dog"), b"label": (3, b"\x05"), b"score": (2, b"\0\0\x80\x3f")}
    entries = b"".join(field(1, field(1, n) + field(2, field(k, field(1, v)))) for n, (k, v) in features.items())
    record = field(1, entries)
    length = struct.pack("<Q", len(record))
    frames = (length + _masked(length) + record + _masked(record)) * 4
    return [{"0.tfrecord": frames}, {"0.tfrecord.zst": zstandard.compress(frames)}]


def _repair_records(data: bytes) -> bytes:
    out, start = bytearray(data), 0
    while start + 16 <= len(out):
        length = min(struct.unpack_from("<Q", out, start)[0], len(out) - start - 16)
        out[start : start + 8] = struct.pack("<Q", length)
        out[start + 8 : start + 12] = _masked(bytes(out[start : start + 8]))
        end = start + 12 + length
        out[end : end + 4] = _masked(bytes(out[start + 12 : end]))
        start = end + 4
    return bytes(out)


def _saved(array: np.ndarray) -> bytes:
    """Returns an array as the bytes of an `.npy` file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _labelled() -> list[Files]:
    vectors = _saved(np.ones((3, 4), np.float64))
    return [
        {"X.npy": vectors, "y.npy": _saved(np.array(labels))} for labels in ([0, 1, 2], ["a", "b", "ü"], [[0.5]] * 3)
    ]


def _packed_arrays() -> list[Files]:
    arrays = {"X": np.ones((3, 4), np.float16), "y": np.arange(3), "ids": np.array(["a", "b", "c"])}
    found: list[Files] = []
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(buffer, **arrays)
        found.append({"a.npz": buffer.getvalue()})
    return found


def _arrays() -> list[Files]:
    table = _parquet(pa.table({"caption": ["a", None, "c"], "url": ["u"] * 3, "similarity": [0.1] * 3}))
    images, texts = _saved(np.ones((3, 4), np.float16)), _saved(np.ones((3, 2), np.float32))
    return [
        {"img_emb_0.npy": images},
        {"img_emb_0.npy": images, "text_emb_0.npy": texts, "metadata_0.parquet": table},
    ]


FORMATS = {
    "img2dataset": Format(Source("img2dataset", "0.tar*"), _tars, _repair_tar),
    "img2dataset_parquet": Format(Source("img2dataset_parquet", "0.parquet"), _tables),
    "tfrecord": Format(Source("tfrecord", "0.tfrecord*"), _records, _repair_records),
    "vectors": Format(Source("vectors", "img_emb_0.npy"), _arrays),
    "vectors-labelled": Format(Source("vectors", "X.npy"), _labelled),
    "vectors-npz": Format(Source("vectors", "a.npz"), _packed_arrays),
}


def mutate(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Returns data with a few changes: bytes, numbers, runs cut out, put in or taken from elsewhere, ends cut off."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        place = rng.randrange(len(out) + 1)
        # The footers of Parquet and the headers of the others decide most.
        place = rng.choice(
            [place, place, max(len(out) - rng.randrange(1, 2000), 0), rng.randrange(200) % (len(out) + 1)]
        )
        size = rng.choice([1, 2, 4, 8, rng.randrange(64), rng.randrange(1024)])
        kind = rng.randrange(8)
        if kind <= 1 and place < len(out):
            out[place] = rng.choice([rng.randrange(256), out[place] ^ 1 << rng.randrange(8)])
        elif kind == 2:
            number = rng.choice(_NUMBERS) + rng.choice([-1, 0, 0, 1])
            width = rng.choice([2, 4, 8])
            order = rng.choice(["little", "big"])
            out[place : place + width] = (number & (1 << 8 * width) - 1).to_bytes(width, order)
        elif kind == 3:
            del out[place : place + size]
        elif kind == 4:
            out[place:place] = rng.choice([rng.randbytes(size), bytes(size), out[place : place + size] * 3])
        elif kind == 5:
            other = rng.choice(others)
            start = rng.randrange(len(other) + 1)
            out[place : place + rng.choice([0, size])] = other[start : start + size]
        elif kind == 6 and rng.random() < 0.3:
            del out[place:]
        elif kind == 7:
            # A number in text, or as a varint.
            text = rng.choice([b"%d" % rng.choice(_NUMBERS), b"\xff\xff\xff\xff\x07", b"\xfe\xff\xff\xff\x0f"])
            out[place : place + rng.choice([0, len(text)])] = text
    return bytes(out)


def _peak_bytes() -> int:
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) << 10 if found else 0


def check(item: object) -> None:
    """Asserts that an item can be worked with and written."""
    assert isinstance(item, sources.Sample | sources.Reject | sources.Filtered), type(item)
    assert not isinstance(item, sources.Sample) or len(item.image) <= EMBED.max_image_bytes
    if isinstance(item, sources.Sample):
        json.dumps([item.member, item.caption, item.url, item.metadata], ensure_ascii=False, allow_nan=False).encode()
        assert item.label is None or 0 <= item.label < 1 << 31
        assert all(vector.ndim == 1 and np.isfinite(vector).all() for vector in item.vectors.values())
    else:
        "".join(vars(item).values() if isinstance(item, sources.Filtered) else [item.member, item.message]).encode()


def read_all(source: Source, folder: Path) -> int:
    """Reads a source and returns how many items came out; a `UserError` is an answer, too."""
    count = 0
    try:
        for shard in sources.plan(source, str(folder), EMBED, str(folder / "listings")):
            for item in sources.read(shard, EMBED):
                check(item)
                count += 1
                assert count < _MAX_ITEMS
    except UserError as error:
        assert str(error).isprintable() or "\n" not in str(error)
    return count


def _write(case: Path, files: Files) -> None:
    shutil.rmtree(case, ignore_errors=True)
    for file, data in files.items():
        (case / file).parent.mkdir(parents=True, exist_ok=True)
        (case / file).write_bytes(data)


def main(name: str, secs: float, seed: int, folder: Path) -> None:
    """Fuzzes one format for some time; the first failure ends the process, and what it was is printed."""
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE_BYTES, _ADDRESS_SPACE_BYTES))
    kind, rng, case = FORMATS[name], random.Random(seed), folder / "case"
    seeds = kind.seeds()
    everything = [data for files in seeds for data in files.values()]
    for files in seeds:
        _write(case, files)
        read_all(kind.source, case)
    start, base, count, total = time.monotonic(), _peak_bytes(), 0, 0
    while time.monotonic() < start + secs:
        files = dict(rng.choice(seeds))
        for file in rng.sample(list(files), rng.randint(1, len(files))):
            files[file] = mutate(rng, files[file], everything)
            if rng.random() < 0.7:
                files[file] = kind.repair(files[file])
        _write(case, files)
        signal.alarm(_CASE_SECS)
        try:
            total += read_all(kind.source, case)
            assert _peak_bytes() - base < _GROWTH_BYTES, f"memory grew by {_peak_bytes() - base:,} bytes"
        except BaseException:
            traceback.print_exc()
            sys.exit(1)
        signal.alarm(0)
        count += 1
    grown = (_peak_bytes() - base) >> 20
    print(f"{name}: {count:,} cases, {total:,} items, memory grew by {grown} MiB")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
