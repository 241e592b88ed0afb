"""A line over vectors that others computed, whose files come, change and go."""

import dataclasses
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from configs.base import Config, Embed, Encoders, Filters, Neighbors, Source
from configs.base import Index as IndexConfig
from index import Index, reindex
from pipelines import generation, schemas
from pipelines.manifest import Embeddings
from tests.finished import Finished
from tests.world import brute_force, unit

BEAM = ["--runner=FnApiRunner"]
DIM = 12
CONFIG = """
from configs.base import *

def get_config():
    return {config!r}
"""


class Line:
    """Files of vectors, and what of them must be found."""

    def __init__(self, root: pathlib.Path, with_queries: bool = False) -> None:
        self.root, self._serial = root, 0
        (root / "data/metadata").mkdir(parents=True)
        self.rows: dict[str, list[tuple[np.ndarray, str]]] = {}
        vectors = Source("vectors", "img_emb_*.npy", metadata=str(root / "data/metadata"))
        none = Source()
        self.config = Config(
            data=str(root / "data"),
            workdir=str(root / "out"),
            memory=vectors,
            train_set=self._queries() if with_queries else none,
            val_set=none,
            test_set=none,
            encoders=Encoders("precomputed:one", (), ()),
            embed=Embed(),
            filters=Filters(leakage=0.0),
            index=IndexConfig(searcher="exact", shards=2, sharding="hash", k=5, max_queries=40),
            neighbors=Neighbors(k=5),
        )
        self.config_file = root / "config.py"

    def _queries(self) -> Source:
        """Writes vectors to look up, and returns their source."""
        folder = self.root / "data/queries"
        (folder / "metadata").mkdir(parents=True)
        np.save(folder / "img_emb_0000.npy", unit(9, DIM, seed=400))
        table = pa.table({"url": [f"http://query/{row}.jpg" for row in range(9)], "caption": ["x"] * 9})
        pq.write_table(table, folder / "metadata/metadata_0000.parquet")
        return Source("vectors", "queries/img_emb_*.npy", metadata=str(folder / "metadata"))

    def put(self, name: str, rows: int) -> None:
        self._serial += 1
        keys = unit(rows, DIM, seed=self._serial)
        urls = [f"http://host/{self._serial}/{row}.jpg" for row in range(rows)]
        self.rows[name] = list(zip(keys, urls, strict=True))
        np.save(self.root / f"data/img_emb_{name}.npy", keys)
        table = pa.table({"url": urls, "caption": urls, "status": ["success"] * rows})
        pq.write_table(table, self.root / f"data/metadata/metadata_{name}.parquet")

    def take(self, name: str) -> None:
        del self.rows[name]
        (self.root / f"data/img_emb_{name}.npy").unlink()

    def run(self, *flags: str, **fields: object) -> int:
        config = dataclasses.replace(self.config, **fields)
        self.config_file.write_text(CONFIG.format(config=config))
        return reindex.main([f"--config={self.config_file}", *BEAM, *flags])

    def listed(self, *lines: object) -> str:
        path = self.root / "list.txt"
        path.write_text("".join(f"{line}\n" for line in lines))
        return f"--remove={path}"

    @property
    def in_use(self) -> Config:
        return generation.resolve(self.config)

    @property
    def index(self) -> Index:
        return Index.open(self.in_use.places.index)

    def urls(self) -> dict[int, str]:
        """URL of each row of the memory that is used, by id."""
        memory = Embeddings(self.in_use.places.memory)
        tables = [memory.read(shard, ["id", "url"]) for shard in memory.shard_rows]
        return {row["id"]: row["url"] for table in tables for row in table.to_pylist()}

    def check(self, removed: set[str] = frozenset(), k: int = 6) -> None:
        live = [(key, url) for rows in self.rows.values() for key, url in rows if url not in removed]
        urls = self.urls()
        assert sorted(urls.values()) == sorted(url for _, url in live)
        queries = unit(15, DIM, seed=500)
        found = [[urls[i] for i in ids] for ids in self.index.search(queries, k).ids.tolist()]
        rows, _ = brute_force(queries, np.stack([key for key, _ in live]), k)
        assert found == [[live[i][1] for i in row] for row in rows]

    def stored(self, url: str) -> np.ndarray:
        """The vector of an image as it was embedded."""
        path = next((self.root / "out/memory").glob("*0000.parquet"))
        table = pq.read_table(path)
        return schemas.to_matrix(table["key"])[table["url"].to_pylist().index(url)]

    def vector_files(self, vector: np.ndarray) -> list[str]:
        """Files of the workdir that have a vector as it is, in any table or byte."""
        found = []
        for path in self.root.joinpath("out").rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                if path.suffix == ".parquet":
                    table = pq.read_table(path)
                    for name in table.column_names:
                        if pa.types.is_fixed_size_list(table[name].type):
                            data += np.ascontiguousarray(schemas.to_matrix(table[name])).tobytes()
                if vector.tobytes() in data:
                    found.append(str(path))
        return found


def finished_line(root: pathlib.Path, with_queries: bool = False) -> Finished[Line]:
    """Returns a line of two files, 40 and 30 rows, that has run."""
    line = Line(root / "line", with_queries)
    line.put("0000", 40)
    line.put("0001", 30)
    assert line.run() == 0
    return Finished(line, line.root)
