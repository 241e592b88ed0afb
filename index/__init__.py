"""Sharded nearest-neighbour search over the key column of an embedded memory.

    from index import Index

    index = Index.open("out/demo/index")     # or Index.build(vectors), of an array
    hits = index.search(queries, k=32)       # queries [Q, d] float32, unit length

Everything else is behind the commands of this package. `Index` is imported when it is first used, so that `--help` of a
command stays quick.
"""

from typing import TYPE_CHECKING, Any

import web_memory_names

if TYPE_CHECKING:
    from index.store.filtered import Allowed
    from index.store.reader import Hits, Index

__all__ = ["Allowed", "Hits", "Index"]

web_memory_names.check(__file__)


def __getattr__(name: str) -> Any:
    """Imports a public name."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from index.store import reader

    return getattr(reader, name)


def __dir__() -> list[str]:
    """Returns the public names."""
    return __all__
