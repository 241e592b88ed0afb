"""Embedded folders with known copies, written through the contracts, and the selection that brute force makes."""

import dataclasses
import pathlib

import numpy as np
import pyarrow as pa

from pipelines import manifest, schemas, storage
from pipelines.filtering.selection import MemoryShard, MemoryShards
from pipelines.manifest import Embeddings, Marker
from pipelines.schemas import EncoderInfo

DIM = 16
KEY = EncoderInfo("key-encoder", DIM, True, "float32")


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def near_to(vectors: np.ndarray, cosine: float | np.ndarray, seed: int = 0) -> np.ndarray:
    """Returns unit vectors at exactly these cosines (but for rounding) to the given unit vectors."""
    noise = np.random.default_rng(seed).normal(size=vectors.shape)
    noise = unit(noise - (noise * vectors).sum(-1, keepdims=True) * vectors)
    cosine = np.broadcast_to(cosine, len(vectors))[:, None]
    return cosine * vectors + np.sqrt(1 - cosine**2) * noise


@dataclasses.dataclass
class Rows:
    """Rows of a folder: keys `[n, d]`, digests and URLs, how many rows each shard has, and perhaps thumbnails."""

    keys: np.ndarray
    images: list[bytes]
    urls: list[str | None]
    shards: list[int]
    numbers: list[int]
    thumbnails: list[bytes | None] | None = None

    @classmethod
    def random(cls, shards: list[int], seed: int, dim: int = DIM) -> "Rows":
        rng, n = np.random.default_rng(seed), sum(shards)
        images = [rng.bytes(32) for _ in range(n)]
        urls = [f"http://host/{seed}/{row}.jpg" if row % 3 else None for row in range(n)]
        return cls(unit(rng.normal(size=(n, dim))), images, urls, shards, list(range(len(shards))))

    @property
    def ids(self) -> np.ndarray:
        parts = [schemas.make_id(number, np.arange(n)) for number, n in zip(self.numbers, self.shards, strict=True)]
        return np.concatenate(parts).astype(np.int64)

    def write(self, folder: pathlib.Path, key: EncoderInfo = KEY) -> MemoryShards:
        """Writes a finished folder of embeddings."""
        config_hash = manifest.claim(str(folder), "pipelines.embed", {"encoders": {"key": dataclasses.asdict(key)}})
        schema = schemas.embeddings({"key": key.dim}, key.dtype, self.thumbnails is not None)
        begin, markers = 0, []
        for number, n in zip(self.numbers, self.shards, strict=True):
            span = range(begin, begin + n)
            begin += n
            columns = {
                "id": schemas.make_id(number, np.arange(n)),
                "content_key": [self.images[i] for i in span],
                "source_shard": ["tar"] * n,
                "member": [f"{folder.name}-{i}.jpg" for i in span],
                "url": [self.urls[i] for i in span],
                "caption": [None] * n,
                "label": [None] * n,
                "width": [8] * n,
                "height": [8] * n,
                "metadata": [None] * n,
                "thumbnail": (self.thumbnails or [None] * len(self.images))[span.start : span.stop],
            }
            arrays = [pa.array(columns[field.name], field.type) for field in schema if field.name in columns]
            keys = self.keys[span.start : span.stop].astype(key.dtype)
            arrays.append(schemas.fixed_list(keys, schema.field("key")))
            path, name = str(folder / f"part-{number}.parquet"), f"part-{number}"
            schemas.write(path, pa.Table.from_arrays(arrays, schema=schema), {"config_hash": config_hash})
            sha256 = storage.sha256(path)
            markers.append(Marker(number, name, "in", 1, "1", n, n, 0, sha256, config_hash, "run", 0.0))
            markers[-1].write(str(folder))
        manifest.complete(str(folder), markers, config_hash)
        shards = tuple(MemoryShard(m.number, m.name, m.rows_out, m.output_sha256) for m in markers)
        return MemoryShards(str(folder), config_hash, key, shards)


def brute_leakage(memory: Rows, splits: dict[str, Rows], threshold: float) -> dict[int, tuple[str, int, float]]:
    """Returns the twin of each leaked row by its id: split, query id, cosine."""
    owners = [(name, int(i)) for name, split in splits.items() for i in split.ids]
    images = [image for split in splits.values() for image in split.images]
    queries = np.concatenate([unit(split.keys.astype(np.float64)) for split in splits.values()])
    scores = np.float32(np.minimum(unit(memory.keys.astype(np.float64)) @ queries.T, 1))
    found = {}
    for row, image in zip(range(len(memory.images)), memory.images, strict=True):
        best = int(np.argmax(scores[row]))
        if image in images:
            found[int(memory.ids[row])] = (*owners[images.index(image)], 1.0)
        elif scores[row, best] >= np.float32(threshold):
            found[int(memory.ids[row])] = (*owners[best], float(scores[row, best]))
    return found


def brute_near(memory: Rows, threshold: float, rows: np.ndarray | None = None) -> dict[int, tuple[int, float]]:
    """Returns the twin of each near duplicate among some rows by its id: earlier row's id, cosine."""
    rows = np.arange(len(memory.images)) if rows is None else rows
    rows = rows[np.argsort(memory.ids[rows])]
    keys = unit(unit(memory.keys[rows].astype(np.float64)).astype(np.float16).astype(np.float64))
    scores = np.float32(np.minimum(keys @ keys.T, 1))
    found = {}
    for place in range(1, len(rows)):
        best = int(np.argmax(scores[place, :place]))
        if scores[place, best] >= np.float32(threshold):
            found[int(memory.ids[rows[place]])] = (int(memory.ids[rows[best]]), float(scores[place, best]))
    return found


def dropped(memory: MemoryShards) -> dict[int, tuple[str, str | None, int | None, float | None]]:
    """Returns what the files of a selection say, by id."""
    found = {}
    for path in sorted(pathlib.Path(memory.folder, "_dropped").glob("*.parquet")):
        for row in schemas.read(str(path), ["id", "reason", "twin_folder", "twin_id", "similarity"]).to_pylist():
            found[row["id"]] = (row["reason"], row["twin_folder"], row["twin_id"], row["similarity"])
    return found


def embeddings(folders: dict[str, pathlib.Path]) -> dict[str, Embeddings]:
    return {name: Embeddings(str(folder)) for name, folder in folders.items()}
