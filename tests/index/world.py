"""A small world with known answers: embedding folders written through the contracts, and commands run on them."""

import dataclasses
import hashlib
import json
import pathlib

import numpy as np
import pyarrow as pa

from index import build, neighbors
from pipelines import manifest, schemas, storage
from pipelines.manifest import EncoderInfo, Marker

DIM = 12
KEY = EncoderInfo("key-encoder", DIM, True, "float32")
TEXT = EncoderInfo("text-encoder", 3, True, "float32")
SPLITS = {"train": 70, "val": 60, "test": 33}
REPOSITORY = pathlib.Path(__file__).parents[2]


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
    infos = {"key": key, "value_text": TEXT}
    config_hash = manifest.claim(
        folder, "pipelines.embed", {"encoders": {role: dataclasses.asdict(info) for role, info in infos.items()}}
    )
    schema = schemas.embeddings({role: info.dim for role, info in infos.items()}, "float32")
    bounds = [s * len(keys) // shards for s in range(shards + 1)]
    markers = []
    for number, (begin, end) in enumerate(zip(bounds, bounds[1:], strict=False)):
        place = np.arange(begin, end)
        n = len(place)
        arrays = {
            "id": pa.array(schemas.make_id(number, np.arange(n)), pa.int64()),
            "content_key": pa.array(images[begin:end], pa.binary(32)),
            "source_shard": pa.array([f"{number:05d}"] * n),
            "member": pa.array([f"{i}.jpg" for i in place]),
            "url": pa.nulls(n, pa.string()),
            "caption": pa.array([f"row {i}" for i in place]),
            "label": pa.array(place % 5, pa.int32()),
            "width": pa.array([8] * n, pa.int32()),
            "height": pa.array([8] * n, pa.int32()),
            "metadata": pa.nulls(n, pa.string()),
            "key": schemas.fixed_list(keys[begin:end], schema.field("key")),
            "value_text": schemas.fixed_list(
                np.repeat(place, 3).reshape(n, 3).astype(np.float32), schema.field("value_text")
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
            config_hash=config_hash,
            run_id="run",
            secs=0.0,
        )
        marker.write(folder)
        markers.append(marker)
    manifest.complete(folder, markers, config_hash)


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


def snapshot(folder: pathlib.Path) -> dict[str, str]:
    """Returns the digest of every file below a folder but for those that differ from run to run.

    These are the markers of the index and the rates in its manifest, which are of seconds, and the config, which holds
    the work folder.
    """
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): hashlib.sha256(without_rates(path.name, path.read_bytes())).hexdigest()
        for path in files
        if path.name != "config.json" and not (folder.name == "index" and path.parent.name == "_done")
    }


def without_rates(name: str, data: bytes) -> bytes:
    """Returns the bytes of a file, those of a manifest of an index without what was timed."""
    if name != "manifest.json":
        return data
    return json.dumps({field: value for field, value in json.loads(data).items() if field != "rates"}).encode()
