"""What makes a folder of outputs whole: the names below are all that other modules use.

A folder begins with `stage.json` (its configuration), collects `_done/{shard}.json` markers, and ends with
`complete.json`. Later stages read no folder without the last. `schemas` defines the rows.
"""

from pipelines.manifest.claims import (
    CLASSES,
    COMPLETE_FILE,
    DROPPED,
    FILTERED,
    INPUTS_FILE,
    LIST_FILE,
    LISTINGS,
    MARKERS,
    NEXT,
    REJECTS,
    STAGE_FILE,
    check_claim,
    claim,
    config_hash,
    fingerprint,
    indexed_memory,
    is_claimed_by_another,
    read_identity,
    read_index,
    release,
    write_config,
)
from pipelines.manifest.concepts import Concepts
from pipelines.manifest.finished import (
    Drops,
    complete,
    read_complete,
    read_shards,
)
from pipelines.manifest.markers import (
    Marker,
    check_numbers,
    marker_of,
    read_marker,
    read_markers,
)
from pipelines.manifest.readers import (
    Embeddings,
    Neighbors,
    read_lists,
)

__all__ = [
    "CLASSES",
    "COMPLETE_FILE",
    "Concepts",
    "DROPPED",
    "Drops",
    "Embeddings",
    "FILTERED",
    "INPUTS_FILE",
    "LISTINGS",
    "LIST_FILE",
    "MARKERS",
    "Marker",
    "NEXT",
    "Neighbors",
    "REJECTS",
    "STAGE_FILE",
    "check_claim",
    "check_numbers",
    "claim",
    "complete",
    "config_hash",
    "fingerprint",
    "indexed_memory",
    "is_claimed_by_another",
    "marker_of",
    "read_complete",
    "read_identity",
    "read_index",
    "read_lists",
    "read_marker",
    "read_markers",
    "read_shards",
    "release",
    "write_config",
]
