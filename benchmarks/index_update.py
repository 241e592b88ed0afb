"""The cost of an update that adds or removes 1% of the rows, against a full build.

    python -m benchmarks.index_update --rows=500000 --dim=128

The memory is clustered unit vectors (a power law over the clusters), written as embeddings in shards of 10,000 rows.
The last line is one JSON object.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import io
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from configs.base import Config, Index
from index.building import full_build, rebuild, update
from index.store import index_manifest
from pipelines import manifest, schemas, storage
from pipelines.manifest import Drops, Marker
from pipelines.runner import Runner
from pipelines.schemas import EncoderInfo

_SHARD_ROWS = 10_000
_CLUSTERS = 2_000
_BEAM = ("--runner=FnApiRunner",)


class Memory:
    """A folder of embeddings that grows, and whose rows can be dropped."""

    def __init__(self, folder: str, dim: int) -> None:
        """Claims the folder.

        Args:
            folder: of the memory.
            dim: width of the keys.
        """
        self._folder, self._dim = folder, dim
        self._rng = np.random.default_rng(0)
        self._centres = self._rng.normal(size=(_CLUSTERS, dim)).astype(np.float32)
        key = dataclasses.asdict(EncoderInfo("made-up", dim, True, "float32"))
        self._config_hash = manifest.claim(folder, "pipelines.embed", {"encoders": {"key": key}})
        self._markers: list[Marker] = []
        self._drops: dict[str, Drops] = {}

    def add(self, rows: int) -> None:
        """Adds rows in shards of their own."""
        for begin in range(0, rows, _SHARD_ROWS):
            self._write(min(_SHARD_ROWS, rows - begin))

    def _write(self, rows: int) -> None:
        number = len(self._markers)
        cluster = np.minimum(self._rng.pareto(0.7, rows) * 10, _CLUSTERS - 1).astype(int)
        keys = self._centres[cluster] + 0.9 * self._rng.normal(size=(rows, self._dim)).astype(np.float32)
        keys /= np.linalg.norm(keys, axis=1, keepdims=True)
        schema = pa.schema(
            [f for f in schemas.embeddings({"key": self._dim}) if f.name in ("id", "content_key", "key")]
        )
        images = [hashlib.sha256(f"{number}/{row}".encode()).digest() for row in range(rows)]
        arrays = [
            pa.array(schemas.make_id(number, np.arange(rows))),
            pa.array(images, pa.binary(32)),
            schemas.fixed_list(keys, schema.field("key")),
        ]
        path = storage.join(self._folder, f"{number:05d}.parquet")
        schemas.write(path, pa.Table.from_arrays(arrays, schema=schema), {"config_hash": self._config_hash})
        sha256 = storage.sha256(path)
        self._markers.append(
            Marker(number, f"{number:05d}", "", 1, "", rows, rows, 0, sha256, self._config_hash, "", 0.0)
        )

    def drop(self, share: float) -> None:
        """Drops a share of the rows of every shard."""
        for marker in self._markers:
            rows = np.sort(self._rng.choice(marker.rows_out, int(share * marker.rows_out), replace=False))
            path = storage.join(self._folder, manifest.DROPPED, f"{marker.name}.parquet")
            ids = schemas.make_id(marker.number, rows)
            schemas.write(path, pa.table({"id": ids}), {"config_hash": self._config_hash})
            self._drops[marker.name] = Drops(len(rows), storage.sha256(path))

    def complete(self) -> None:
        """Makes the folder readable."""
        manifest.complete(self._folder, self._markers, self._config_hash, self._drops)


def measure(rows: int, dim: int, shards: int = 1, searcher: str = "scann") -> dict[str, float]:
    """Returns seconds, recall and ratios of a build, an update that adds, one that removes, and a compaction.

    Args:
        rows: of the memory.
        dim: width of its keys.
        shards: of the index.
        searcher: kind of it.
    """
    with tempfile.TemporaryDirectory() as workdir:
        config = Config(workdir=workdir, index=Index(searcher=searcher, shards=shards))
        memory = Memory(config.places.memory, dim)
        memory.add(rows)
        memory.complete()
        found: dict[str, float] = {"rows": rows, "dim": dim, "shards": shards}

        runner = Runner(_BEAM)
        inputs = config.places, config.index, config.seed, runner

        def timed(name: str, work: Callable[[], Mapping[str, Any]]) -> None:
            begin = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):
                facts = work()
            found[f"{name}_secs"] = round(time.perf_counter() - begin, 3)
            found[f"{name}_recall"] = facts["recall"]["mean"]
            found[f"{name}_cost"] = facts["search"]["cost"]

        def build() -> dict[str, Any]:
            full_build.run(*inputs)
            return index_manifest.read(config.places.index)

        timed("build", build)
        memory.add(rows // 100)
        memory.complete()
        timed("add", lambda: update.run(*inputs)[0])
        memory.drop(0.01)
        memory.complete()
        timed("remove", lambda: update.run(*inputs)[0])
        timed("compact", lambda: rebuild.run(*inputs)[0])
    found["reindex_1pct_over_build"] = round(found["add_secs"] / found["build_secs"], 4)
    found["remove_1pct_over_build"] = round(found["remove_secs"] / found["build_secs"], 4)
    return found


def main() -> None:
    """Runs the measurement."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rows", type=int, default=500_000, help="rows of the memory (500,000)")
    parser.add_argument("--dim", type=int, default=128, help="width of the keys (128)")
    parser.add_argument("--shards", type=int, default=1, help="shards of the index (1)")
    parser.add_argument("--searcher", default="scann", help="kind of searcher (scann)")
    args = parser.parse_args()
    print(json.dumps(measure(args.rows, args.dim, args.shards, args.searcher)))


if __name__ == "__main__":
    main()
