"""A small world with known answers, for tests of all packages: embedding folders, and commands that run on them."""

import copy
import dataclasses
import hashlib
import json
import pathlib
import shutil
from collections.abc import Sequence
from typing import Self

import numpy as np
import pyarrow as pa

from index import Index, build, neighbors
from pipelines import manifest, schemas, storage
from pipelines.manifest import Marker
from pipelines.schemas import EncoderInfo

DIM = 12
KEY = EncoderInfo("key-encoder", DIM, True, "float32")
TEXT = EncoderInfo("text-encoder", 3, True, "float32")
ENCODERS = {"key": KEY, "value_text": TEXT}
SPLITS = {"train": 70, "val": 60, "test": 33}
REPOSITORY = pathlib.Path(__file__).parents[1]
# Flags with which the trials of every head are the grid of learning rates and dropouts, each one run.
PLAIN_TRIALS = {
    "train.search": "grid",
    "train.weight_decays": "0.1",
    "train.folds": "1",
    "train.value_scale": "0",
    "train.similarity": "cosine",
    "train.space": "k=0,similarity=cosine,value_scale=0",
}


def unit(rows: int, dim: int = DIM, seed: int = 0, clusters: int = 15) -> np.ndarray:
    """Returns clustered unit vectors, float32."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(clusters, dim))
    vectors = centres[rng.integers(clusters, size=rows)] + 0.4 * rng.normal(size=(rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def brute_force(queries: np.ndarray, keys: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns rows and float32-rounded scores of the k nearest, ties by row, by float64 sums."""
    scores = (queries.astype(np.float64) @ keys.astype(np.float64).T).astype(np.float32)
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(scores, rows, 1)


def digests(names: list[str]) -> list[bytes]:
    return [hashlib.sha256(name.encode()).digest() for name in names]


def write_embeddings(
    folder: str,
    keys: np.ndarray,
    images: list[bytes],
    shards: int = 3,
    key: EncoderInfo = KEY,
    columns: dict[str, np.ndarray] | None = None,
) -> None:
    """Writes a finished folder of embeddings, ids from 0 in each shard; text values are the row number thrice."""
    config_hash = claim(folder, key)
    bounds = [s * len(keys) // shards for s in range(shards + 1)]
    markers = [
        write_shard(folder, config_hash, number, np.arange(begin, end), keys[begin:end], images[begin:end], key)
        for number, (begin, end) in enumerate(zip(bounds, bounds[1:], strict=False))
    ]
    manifest.complete(folder, markers, config_hash)


def claim(folder: str, key: EncoderInfo = KEY) -> str:
    """Claims a folder for embeddings of `key` and `TEXT`, and returns its config hash."""
    text = dataclasses.replace(TEXT, dtype=key.dtype)
    infos = {role: dataclasses.asdict(info) for role, info in {"key": key, "value_text": text}.items()}
    return manifest.claim(folder, "pipelines.embed", {"encoders": infos})


def write_shard(
    folder: str,
    config_hash: str,
    number: int,
    place: np.ndarray,
    keys: np.ndarray,
    images: list[bytes],
    key: EncoderInfo = KEY,
    captions: Sequence[str | None] = (),
) -> Marker:
    """Writes one shard of rows, named by their place, and its marker; captions are `row 0`, .. unless given."""
    schema, n = schemas.embeddings({"key": key.dim, "value_text": TEXT.dim}, key.dtype), len(place)
    arrays = {
        "id": pa.array(schemas.make_id(number, np.arange(n)), pa.int64()),
        "content_key": pa.array(images, pa.binary(32)),
        "source_shard": pa.array([f"{number:05d}"] * n),
        "member": pa.array([f"{i}.jpg" for i in place]),
        "url": pa.nulls(n, pa.string()),
        "caption": pa.array(captions or [f"row {i}" for i in place], pa.string()),
        "label": pa.array(place % 5, pa.int32()),
        "width": pa.array([8] * n, pa.int32()),
        "height": pa.array([8] * n, pa.int32()),
        "metadata": pa.nulls(n, pa.string()),
        "key": schemas.fixed_list(keys.astype(key.dtype), schema.field("key")),
        "value_text": schemas.fixed_list(
            np.repeat(place, 3).reshape(n, 3).astype(key.dtype), schema.field("value_text")
        ),
    }
    table = pa.Table.from_arrays([arrays[name] for name in schema.names], schema=schema)
    path = storage.join(folder, f"{number:05d}.parquet")
    schemas.write(path, table, {"config_hash": config_hash})
    marker = Marker(
        number=number,
        name=f"{number:05d}",
        uri="in",
        size_bytes=1,
        etag="1",
        rows_in=n,
        rows_out=n,
        rows_rejected=0,
        output_sha256=storage.sha256(path),
        output_footer=schemas.footer_sha256(path),
        config_hash=config_hash,
        run_id="run",
        secs=0.0,
    )
    marker.write(folder)
    return marker


def write_captions(folder: str, shards: Sequence[Sequence[str | None]]) -> None:
    """Writes a finished memory of rows with captions, those of each shard."""
    config_hash, rows = claim(folder), sum(map(len, shards))
    keys, images, place, markers = unit(rows), digests([str(i) for i in range(rows)]), np.arange(rows), []
    for number, captions in enumerate(shards):
        own, place = place[: len(captions)], place[len(captions) :]
        part = keys[own], [images[i] for i in own]
        markers.append(write_shard(folder, config_hash, number, own, *part, captions=captions))
    manifest.complete(folder, markers, config_hash)


class ChangingMemory:
    """A memory whose shards are added, changed and removed, and whose rows are dropped; an index must mirror it.

    Attributes:
        shards: keys `[n, DIM]` and images of each shard, by number.
        dropped: ids of rows that are stored and not used.
    """

    def __init__(self, folder: str) -> None:
        self._folder, self._serial = folder, 0
        self._markers: dict[int, Marker] = {}
        self.shards: dict[int, tuple[np.ndarray, list[bytes]]] = {}
        self.dropped: set[int] = set()

    def put(self, number: int, rows: int) -> None:
        """Adds a shard of new rows, or replaces the one of that number."""
        self._serial += 1
        self.dropped -= set(self.ids(number).tolist())
        keys = unit(rows, seed=1000 + self._serial)
        self.shards[number] = keys, digests([f"{self._serial}/{row}" for row in range(rows)])
        place = np.arange(rows)
        self._markers[number] = write_shard(self._folder, claim(self._folder), number, place, *self.shards[number])

    def take(self, number: int) -> None:
        """Removes a shard."""
        self.dropped -= set(self.ids(number).tolist())
        del self.shards[number], self._markers[number]

    def ids(self, number: int) -> np.ndarray:
        rows = len(self.shards[number][0]) if number in self.shards else 0
        return schemas.make_id(number, np.arange(rows, dtype=np.int64))

    @property
    def live(self) -> tuple[np.ndarray, np.ndarray, list[bytes]]:
        """Ids, keys and images of the rows that are used, in the global order."""
        ids = np.concatenate([self.ids(number) for number in sorted(self.shards)])
        keys = np.concatenate([self.shards[number][0] for number in sorted(self.shards)])
        images = [image for number in sorted(self.shards) for image in self.shards[number][1]]
        used = ~np.isin(ids, list(self.dropped))
        return ids[used], keys[used], [image for image, is_used in zip(images, used, strict=True) if is_used]

    def finish(self) -> None:
        """Finishes the folder."""
        config_hash, drops = claim(self._folder), {}
        for number, marker in self._markers.items():
            ids = np.array(sorted(self.dropped & set(self.ids(number).tolist())), np.int64)
            path = storage.join(self._folder, manifest.DROPPED, f"{marker.name}.parquet")
            schemas.write(path, pa.table({"id": ids}), {"config_hash": config_hash})
            drops[marker.name] = manifest.Drops(len(ids), storage.sha256(path))
        manifest.complete(self._folder, list(self._markers.values()), config_hash, drops)


class World:
    """A memory of `rows` keys and three splits of queries in one work folder."""

    def __init__(self, folder: pathlib.Path, rows: int = 400) -> None:
        self.folder = folder
        self.keys = unit(rows)
        self.images = digests([f"memory {i}" for i in range(rows)])
        self.queries = {split: unit(n, seed=seed) for seed, (split, n) in enumerate(SPLITS.items(), 1)}
        self.query_images = {split: digests([f"{split} {i}" for i in range(n)]) for split, n in SPLITS.items()}
        self.config_file = folder / "config.py"
        folder.mkdir(parents=True, exist_ok=True)
        self.config_file.write_text(
            "from configs.base import Config, Index, Neighbors\n"
            "def get_config():\n"
            f"    return Config(workdir={str(folder)!r}, neighbors=Neighbors(k=7, block_rows=16),\n"
            "        index=Index(searcher='exact', shards=3, k=5))\n"
        )

    def write(self, **options: object) -> "World":
        write_embeddings(f"{self.folder}/memory", self.keys, self.images, **options)
        for split in SPLITS:
            self.write_split(split)
        return self

    def write_split(self, split: str, **options: object) -> None:
        queries, images = self.queries[split], self.query_images[split]
        write_embeddings(f"{self.folder}/queries/{split}", queries, images, shards=2, **options)

    def copy(self, folder: pathlib.Path, *without: str) -> "World":
        """Returns a world with the same files, except the folders `without`, in a folder of its own."""
        copy = World(folder)
        for name in {"queries", "neighbors", "index", "memory"} - set(without):
            (folder / name).symlink_to(self.folder / name)
        return copy

    def twin(self, folder: pathlib.Path) -> Self:
        """Returns a world with copies of all files, in a folder of its own, that may be changed."""
        twin = copy.deepcopy(self)
        twin.folder, twin.config_file = folder, folder / "config.py"
        shutil.copytree(self.folder, folder)
        twin.config_file.write_text(self.config_file.read_text().replace(repr(str(self.folder)), repr(str(folder))))
        return twin

    def name_classes(self) -> pathlib.Path:
        """Writes names of five classes and their embeddings, also as keys, and returns the file of the names."""
        file, names = self.folder / "names.txt", [f"class {label}" for label in range(5)]
        file.write_text("".join(f"{name}\n" for name in names))
        schema = schemas.classes({"key": DIM, "value_text": TEXT.dim})
        arrays = [pa.array(range(5), pa.int32()), pa.array(names)]
        arrays += [schemas.fixed_list(unit(5, info.dim), schema.field(name)) for name, info in ENCODERS.items()]
        made_by = {f"{name}.fingerprint": info.fingerprint for name, info in ENCODERS.items()}
        metadata = {"config_hash": "names", schemas.KEY_SPACE: "value_text", **made_by}
        schemas.write(f"{self.folder}/classes.parquet", pa.Table.from_arrays(arrays, schema=schema), metadata)
        return file

    def args(self, *flags: str) -> list[str]:
        return [f"--config={self.config_file}", "--runner=FnApiRunner", *flags]

    def build(self, *flags: str) -> int:
        return build.main(self.args(*flags))

    def neighbors(self, *flags: str) -> int:
        return neighbors.main(self.args(*flags))

    @property
    def index(self) -> pathlib.Path:
        return self.folder / "index"

    @property
    def ids(self) -> np.ndarray:
        """Ids of the memory in the global row order."""
        bounds = [s * len(self.keys) // 3 for s in range(4)]
        return np.concatenate([schemas.make_id(s, np.arange(bounds[s + 1] - bounds[s])) for s in range(3)])


def everywhere(index: Index) -> Index:
    """Makes queries visit every leaf of an index, and so every shard."""
    index.point = dataclasses.replace(index.point, leaves=len(index.router.centres))
    return index


def snapshot(folder: pathlib.Path) -> dict[str, str]:
    """Returns the digest of every file below a folder, without what differs from run to run.

    Left out are the markers of the index and the rates in its manifest, which contain timings, and the config, which
    contains the work folder.
    """
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): hashlib.sha256(without_rates(path.name, path.read_bytes())).hexdigest()
        for path in files
        if path.name != "config.json" and not (folder.name == "index" and path.parent.name == "_done")
    }


def without_rates(name: str, data: bytes) -> bytes:
    """Returns the bytes of a file; those of an index's manifest without its timings."""
    if name != "manifest.json":
        return data
    return json.dumps({field: value for field, value in json.loads(data).items() if field != "rates"}).encode()
