"""Whether the lists of the splits are those of the published protocol, before hours are spent on embedding them.

`model.data.protocol` compares what was embedded, and the shot groups.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines import sources
from pipelines.embedding.request import MEMORY, Request
from pipelines.errors import UserError
from pipelines.progress import counted

_REMEDY = "get the published list, or set"


def check(name: str, path: str, listed: int, counts: Mapping[Any, int], request: Request) -> None:
    """Compares a list with that of the protocol.

    Args:
        name: of the split, or the memory, of which nothing is expected.
        path: of the list.
        listed: images that it names.
        counts: images of each class; nothing if they are not known before they are read.
        request: has the protocol.

    Raises:
        UserError: if it has another number of images or, for train, other classes or classes of other sizes.
    """
    if name != MEMORY:
        _compare(path, name, f"{name}_rows", listed, request)
    if name == "train" and (sizes := [count for label, count in counts.items() if label is not None]):
        _check_classes(path, sizes, request)


def check_train_and_val(listed: Mapping[str, int], request: Request) -> None:
    """Raises a `UserError` if the list that train and val are parts of is not that of the protocol.

    Args:
        listed: images of each split and of the memory, by name.
        request: has the protocol.
    """
    if {"train", "val"} <= listed.keys():
        path = sources.resolve(request.sources["train"], request.places.data).path
        _compare(path, "train and val", "train_val_rows", listed["train"] + listed["val"], request)


def _compare(path: str, what: str, field: str, listed: int, request: Request) -> None:
    wanted = getattr(request.protocol, field)
    if wanted and listed != wanted:
        raise UserError(
            f"{path}: names {counted(listed, 'image')} for {what}, {abs(wanted - listed):,} "
            f"{'fewer' if listed < wanted else 'more'} than the {wanted:,} of the protocol; {_REMEDY} "
            f"--config.protocol.{field}={listed} to use this one"
        )


def _check_classes(path: str, sizes: Sequence[int], request: Request) -> None:
    wanted, ends = request.protocol, (min(sizes), max(sizes))
    if wanted.classes and len(sizes) != wanted.classes:
        raise UserError(
            f"{path}: has {counted(len(sizes), 'class')}, the protocol {wanted.classes:,}; {_REMEDY} "
            f"--config.protocol.classes={len(sizes)} to use this one"
        )
    if wanted.images_per_class and ends != wanted.images_per_class:
        raise UserError(
            f"{path}: has {ends[0]:,} and {ends[1]:,} images in its smallest and its largest class, the protocol "
            f"{wanted.images_per_class[0]:,} and {wanted.images_per_class[1]:,}; {_REMEDY} "
            f"--config.protocol.images_per_class={ends[0]},{ends[1]} to use this one"
        )
