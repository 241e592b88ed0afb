"""Prepares the look-up of neighbours: checks its inputs, claims the folder, and cuts the queries into groups."""

import dataclasses
from collections.abc import Collection
from typing import Any

from configs.base import Neighbors, Places
from configs.schema.data import SPLITS
from configs.schema.search import KEY
from index.lists import layout, patch
from index.lists.layout import STAGE, Block, Group, NeighborJob
from index.lists.naming import ByName
from index.store import keys
from index.store.reader import Index
from pipelines import manifest, schemas, storage
from pipelines.errors import UserError
from pipelines.manifest import Embeddings
from pipelines.progress import counted

# Limits of a group of queries: rows, bytes of their keys, and entries of their lists.
GROUP_ROWS, _GROUP_BYTES, _GROUP_ENTRIES = 1 << 18, 1 << 28, 1 << 23
# Entries of the lists' identity that may differ after an update of the memory.
_UPDATED = {"memory", "index", "own_sets"}
# Fields of a source that say what rows mean, not which images they have.
_NOT_OF_IMAGES = {"fields", "class_names", "caption_number", "first_label"}


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What lists are looked up from, which belongs together, and the identity that the lists get of it."""

    memory: Embeddings
    index: Index
    queries: dict[str, Embeddings]
    identity: dict[str, Any]


def read_inputs(places: Places, wanted: Neighbors, sources: Collection[str]) -> Inputs:
    """Opens and checks the inputs of the lists, and writes nothing; arguments and errors as those of `claim_lists`."""
    memory, index = Embeddings(places.memory), Index.open(places.index)
    if index.memory_snapshot != memory.snapshot:
        raise UserError(
            f"{index.folder}: is an index of another memory than {memory.folder} is now; run web-memory reindex"
        )
    queries = _open_queries(places, index, sources)
    settings = dataclasses.asdict(wanted)
    if settings.pop("by") != KEY:
        named = ByName(places.concepts, memory.snapshot, memory.rows, wanted.by, wanted.k)
        settings |= {"by": wanted.by, "names": named.rules}
    identity = {
        **settings,
        "memory": memory.snapshot,
        "index": index.fingerprint,
        "own_sets": _own_sets(memory, queries),
        "queries": {split: embeddings.snapshot for split, embeddings in queries.items()},
        "encoders": {role: dataclasses.asdict(info) for role, info in memory.encoders.items()},
    }
    return Inputs(memory, index, queries, identity)


def foresee(places: Places, wanted: Neighbors, sources: Collection[str]) -> dict[str, str]:
    """Returns what is looked up and what would be, in words; arguments and errors as those of `claim_lists`."""
    inputs = read_inputs(places, wanted, sources)
    rows = ", ".join(f"{split} {queries.rows:,}" for split, queries in inputs.queries.items())
    found = {"queries": rows, "k": str(wanted.k), "output": places.neighbors}
    if layout.is_complete(places.neighbors, manifest.config_hash(STAGE, inputs.identity)):
        return {"done": "all lists are looked up; nothing to do", **found}
    size = group_rows(inputs.index.key_encoder.dim, wanted.k)
    groups = [g for split, q in inputs.queries.items() for g in _groups(split, q, wanted.block_rows, size)]
    home = layout.home(places.neighbors, inputs.index.fingerprint)
    markers = {storage.name(path) for path in storage.files(storage.join(home, manifest.MARKERS), ".json")}
    blocks = [block for group in groups for block in group.blocks]
    done = sum(f"{block.name}.json" in markers for block in blocks)
    return {"done": f"{done:,} of {counted(len(blocks), 'block')} of lists", "would": "look up the others", **found}


def claim_lists(places: Places, wanted: Neighbors, sources: Collection[str]) -> NeighborJob:
    """Checks that memory, index and queries belong together, and claims the folder of the lists.

    Existing lists of an earlier version of the same index are not touched.

    Args:
        places: of memory, index, queries and lists.
        wanted: config of the lists.
        sources: splits that the config names a source for; others are looked up if they are embedded.

    Raises:
        UserError: if an earlier stage is unfinished or belongs to something else, or the config is impossible.
    """
    inputs = read_inputs(places, wanted, sources)
    memory, index, queries, identity = inputs.memory, inputs.index, inputs.queries, inputs.identity
    previous = _claim_folder(places.neighbors, identity, index)
    if wanted.by != KEY:
        # Rows that were removed may have kept named ones out of a list.
        previous = ""
    home = layout.home(places.neighbors, index.fingerprint)
    config_hash = manifest.claim(home, STAGE, identity)
    manifest.write_config(places.neighbors, places.config)
    layout.write_index_facts(home, index.facts)
    rows = group_rows(index.key_encoder.dim, wanted.k)
    return NeighborJob(
        folder=places.neighbors,
        memory=memory.folder,
        index=index.folder,
        version=index.fingerprint,
        queries={split: embeddings.folder for split, embeddings in queries.items()},
        snapshots={embeddings.folder: embeddings.snapshot for embeddings in (memory, *queries.values())},
        k=wanted.k,
        exclude_same_image=wanted.exclude_same_image,
        own_sets=tuple(identity["own_sets"]),
        groups=tuple(group for split, q in queries.items() for group in _groups(split, q, wanted.block_rows, rows)),
        config_hash=config_hash,
        previous=previous,
        is_direct=len(index.shards) == 1 and not previous,
        by=wanted.by,
        concepts=places.concepts,
    )


def group_rows(dim: int, k: int) -> int:
    """Returns how many queries a group may have, for keys of width `dim` and lists of length `k`."""
    return max(1, min(GROUP_ROWS, _GROUP_BYTES // (4 * dim), _GROUP_ENTRIES // k))


def _open_queries(places: Places, index: Index, sources: Collection[str]) -> dict[str, Embeddings]:
    queries = {
        split: Embeddings(places.queries(split))
        for split in SPLITS
        if split in sources or storage.exists(places.queries(split))
    }
    if not queries:
        raise UserError("--config.train_set.path: is empty, as are val_set and test_set; name images to look up")
    for embeddings in queries.values():
        keys.require_same_encoder(index.key_encoder, embeddings, index.folder)
    if not any(embeddings.rows for embeddings in queries.values()):
        raise UserError(f"{', '.join(e.folder for e in queries.values())}: have no queries to look up")
    return queries


def _groups(split: str, queries: Embeddings, block_rows: int, most: int) -> list[Group]:
    """Cuts a split into blocks of `block_rows` rows of a shard, and groups of at most `most` rows."""
    spans = [
        (shard, begin, min(begin + block_rows, rows))
        for shard, rows in queries.shard_rows.items()
        for begin in range(0, rows, block_rows)
    ]
    dealt: list[list[Block]] = []
    for number, span in enumerate(spans):
        block = Block(f"{split}-{number:05d}", split, *span)
        if not dealt or sum(other.rows for other in dealt[-1]) + block.rows > most:
            dealt.append([])
        dealt[-1].append(block)
    return [Group(f"{split}-{number:05d}", split, tuple(blocks)) for number, blocks in enumerate(dealt)]


def _own_sets(memory: Embeddings, queries: dict[str, Embeddings]) -> list[str]:
    """Returns the splits whose images are the memory."""
    own = _images(memory)
    return [
        split
        for split, embeddings in queries.items()
        if embeddings.snapshot == memory.snapshot or (own and _images(embeddings) == own)
    ]


def _images(embeddings: Embeddings) -> dict[str, Any]:
    """Returns what says which images were embedded, in which order; nothing if that is not known."""
    source = embeddings.identity.get("source", {})
    return {name: value for name, value in source.items() if name not in _NOT_OF_IMAGES}


def _claim_folder(folder: str, identity: dict[str, Any], index: Index) -> str:
    """Claims a folder that is free, ours, or of an earlier version of the index; returns the version to patch."""
    theirs = manifest.read_identity(folder) if storage.exists(storage.join(folder, manifest.STAGE_FILE)) else {}
    if theirs.get("index", index.fingerprint) != index.fingerprint:
        old = layout.home(folder, theirs["index"])
        facts = layout.read_index_facts(old) if storage.exists(layout.index_facts_path(old)) else {}
        ours = {"schema_version": schemas.SCHEMA_VERSION, "stage": STAGE, **identity}
        is_same = _settings(theirs) == _settings(ours)
        if is_same and facts.get("config_hash") == index.facts["config_hash"]:
            is_whole = layout.is_complete(folder, manifest.fingerprint(theirs))
            is_usable = is_whole and theirs["own_sets"] == identity["own_sets"]
            return theirs["index"] if is_usable and patch.is_successor(index.facts, facts) else ""
    manifest.release(folder, STAGE, identity)
    manifest.claim(folder, STAGE, identity)
    return ""


def _settings(identity: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in identity.items() if name not in _UPDATED}
