"""Fields of the index and of the neighbour lists."""

import dataclasses

from configs.schema.fields import option

SEARCHERS = ("exact", "jax", "scann")
SHARDINGS = ("routed", "hash")
PRECISIONS = ("bfloat16", "float32", "int8")
KEY, NAME, BOTH = "key", "name", "both"
REORDER_PLACES = ("memory", "disk")


@dataclasses.dataclass(frozen=True)
class Index:
    """How the keys are indexed."""

    searcher: str = option("scann", "Searcher of each shard; `exact` where ScaNN cannot run.", choices=SEARCHERS)
    shards: int = option(
        0, "Parts of the index, each built and searched on its own; 0 for as few as `memory_gb` allows.", at_least=0
    )
    sharding: str = option(
        "routed",
        "`routed`: shards are regions of space and a query visits the nearest; `hash`: rows are dealt at random and "
        "a query visits every shard.",
        choices=SHARDINGS,
    )
    target_recall: float = option(0.95, "Recall@k that the search is tuned to.", above=0, at_most=1)
    k: int = option(128, "The k of that recall.", at_least=1)
    leaves: int = option(
        0, "Partitions of each shard, at least 16 of a routed one; 0 lets the planner choose.", at_least=0
    )
    reorder: str = option(
        "bfloat16",
        "Precision of the keys that candidates are re-ranked with, which decides the memory that a searcher takes.",
        choices=PRECISIONS,
    )
    reorder_on: str = option(
        "memory",
        "Where these keys are during a search; with `disk` a searcher holds only 4-bit codes, and reads the keys from "
        "a local file.",
        choices=REORDER_PLACES,
    )
    memory_gb: float = option(0.0, "Most memory, in GB, that building a shard may take; 0 for any.", at_least=0)
    max_queries: int = option(2000, "Most queries that recall is measured on.", at_least=1)


@dataclasses.dataclass(frozen=True)
class Neighbors:
    """How neighbour lists are looked up."""

    k: int = option(128, "Neighbours of each query; shorter lists are padded with -1.", at_least=1)
    by: str = option(
        KEY,
        "What a list has: the nearest rows (`key`), the nearest of those whose captions name a class (`name`), or half "
        "of each (`both`); needs `web-memory concepts` (docs/concepts.md).",
        choices=(KEY, NAME, BOTH),
    )
    block_rows: int = option(4096, "Queries searched at once, which bounds memory.", at_least=1)
    exclude_same_image: bool = option(True, "Whether to leave out memory rows that have the query's image bytes.")
