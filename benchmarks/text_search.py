"""Text search in a space that `web-memory align` trained: does a held-out caption find its picture?

    python -m benchmarks.text_search --config=configs/two_tower.py --config.data=/path/to/data

Run it after `web-memory run`. The queries are the captions of the pairs that align held out, embedded by the text
tower. They are searched for in the index of the workdir, and in an exact one that is built here of the same memory;
recall@10 is the share of the captions whose own picture is among the ten nearest, of all rows and of the held-out ones
alone. Brute force in NumPy, in float64 on the stored keys, is the answer that the exact index must give. Equal captions
are common in such data, and of their pictures only one counts as right. The output is in Markdown.
"""

import dataclasses
import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Sequence

import numpy as np

from configs.base import TwoTowerConfig
from index import Index, build
from model.aligning import retrieval
from pipelines import options, schemas, storage
from pipelines.encoders import handles, loaded
from pipelines.manifest import Embeddings

_K = 10
_TIE = 1e-6
# Rows of a list in which ten held-out ones are found.
_DEPTH = 3000


@dataclasses.dataclass(frozen=True)
class _Rows:
    """The memory's rows, by id: keys float32 `[n, d]`, captions, and which were held out."""

    ids: np.ndarray
    keys: np.ndarray
    captions: list[str]
    held_out: np.ndarray


def _read(memory: Embeddings, held_out: set[bytes]) -> _Rows:
    tables = [memory.read(shard, ["id", "content_key", "key", "caption"]) for shard in memory.shard_rows]
    keys = np.concatenate([schemas.to_matrix(table["key"]) for table in tables]).astype(np.float32)
    ids = np.concatenate([table["id"].to_numpy() for table in tables])
    captions = [caption or "" for table in tables for caption in table["caption"].to_pylist()]
    images = [key for table in tables for key in table["content_key"].to_pylist()]
    first = [image in held_out and images.index(image) == row for row, image in enumerate(images)]
    return _Rows(ids, keys, captions, np.array(first))


def _encode(config: TwoTowerConfig, texts: Sequence[str]) -> np.ndarray:
    e = config.encoders
    handle = f"{config.align.folder}/towers/text"
    spec = handles.resolve(handle, e.dtype, e.normalize, 0.0, e.unsafe_models, e.compute)
    return loaded.TextEncoder(spec).encode_all(texts, config.embed.batch_size)


def _exact(argv: Sequence[str], workdir: str, folder: str) -> Index:
    """Builds an exact index of the same memory in another folder."""
    for name in ("memory", "queries"):
        os.symlink(os.path.abspath(f"{workdir}/{name}"), f"{folder}/{name}")
    flags = [f"--config.workdir={folder}", "--config.index.searcher=exact", "--runner=FnApiRunner"]
    if build.main([*argv, *flags]):
        raise SystemExit("the exact index could not be built")
    return Index.open(f"{folder}/index")


def _line(name: str, rows: int, lists: np.ndarray, own: np.ndarray) -> str:
    right = (lists[:, :_K] == own[:, None]).any(1)
    low, high = retrieval.interval(right)
    chance = _K / rows
    share = right.mean()
    return f"| {name} | {rows:,} | {share:.3f} [{low:.3f}, {high:.3f}] | {chance:.5f} | {share / chance:.0f} |"


def main(argv: Sequence[str]) -> int:
    """Prints the tables."""
    config, _, _ = options.parse(argv, str(__doc__).splitlines()[0])
    assert isinstance(config, TwoTowerConfig), "its towers are those of align"
    known = storage.read_json(f"{config.align.folder}/towers/held_out.json")["content_keys"]
    rows = _read(Embeddings(config.places.memory), {bytes.fromhex(key) for key in known})
    own = candidates = rows.ids[rows.held_out]
    texts = [rows.captions[row] for row in np.flatnonzero(rows.held_out)]
    queries = _encode(config, texts)
    scores = queries.astype(np.float64) @ rows.keys.astype(np.float64).T
    best = np.argsort(-scores, axis=1, kind="stable")
    order = rows.ids[best]
    tuned = Index.open(config.places.index).search(queries, _K).ids
    with tempfile.TemporaryDirectory(prefix="web-memory-") as folder:
        hits = _exact(argv, config.places.root, folder).search(queries, min(_DEPTH, len(rows.ids)))
    # Sums in float32 may order rows differently whose scores are as good as equal.
    order = order[:, : hits.ids.shape[1]]
    ranked = np.take_along_axis(scores, best[:, : hits.ids.shape[1]], 1)
    by_id = np.argsort(rows.ids)
    theirs = np.take_along_axis(scores, by_id[np.searchsorted(rows.ids[by_id], hits.ids)], 1)
    among, brute = (np.array([line[np.isin(line, candidates)][:_K] for line in lists]) for lists in (hits.ids, order))
    dropped = len(known) - len(own)
    same = len(texts) - len(set(texts))
    print(f"{len(own):,} held-out captions ({dropped} more have no row in the memory); {same} repeat an earlier one.\n")
    print("| lists of | rows | recall@10 | chance | times chance |\n|---|---|---|---|---|")
    print(_line("exact index, held-out rows", len(candidates), among, own))
    print(_line("NumPy, held-out rows", len(candidates), brute, own))
    print(_line("exact index, all rows", len(rows.ids), hits.ids, own))
    print(_line("NumPy, all rows", len(rows.ids), order, own))
    print(_line(f"index of {pathlib.Path(config.workdir).name}, all rows", len(rows.ids), tuned, own))
    facts = {
        "equal_lists_of_10": float((hits.ids[:, :_K] == order[:, :_K]).all(1).mean()),
        "equal_lists_of_10_held_out": float((among[:, :_K] == brute[:, :_K]).all(1).mean()),
        "equal_but_for_ties": bool((np.abs(ranked - theirs) < _TIE).all()),
        "found_by_the_index": float(np.mean([np.isin(a, b).mean() for a, b in zip(order[:, :_K], tuned, strict=True)])),
    }
    print(f"\n{json.dumps(facts)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
