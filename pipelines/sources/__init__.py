"""Readers of image sources: the shards of a source, and the samples of one shard as a stream.

The files of a format either contain samples, a shard in each file, or list images below a folder. Both are registered
here by name. A reader does not fail on a bad row: it yields a `Reject` and continues. Images stay encoded bytes:
`decode` decodes them, `inference` embeds them.
"""

import contextlib
import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import Any

from configs.base import Embed, Source
from pipelines import storage
from pipelines.errors import UserError
from pipelines.sources import listing, naming, parts, patterns
from pipelines.sources.files import arrow, parquet, tar, tfrecord, vectors
from pipelines.sources.images import Images, below
from pipelines.sources.labels import Labels, LabelSpace
from pipelines.sources.lists import coco, image_folder, image_list, inat2021, swat, table, webvision, yfcc15m
from pipelines.sources.naming import Naming
from pipelines.sources.sample import Filtered, InputShard, Reject, Sample, storable_text
from pipelines.sources.web import Unreadable

# Formats whose fields have names that the source's `fields` can choose.
_NAMED_FIELDS = {"arrow", "img2dataset", "img2dataset_parquet", "tfrecord", "vectors", "table", "image_folder"}

Reader = Callable[[InputShard, Embed], Iterator[Sample | Reject | Filtered]]


_SUFFIXES = re.compile(r"(\.(tar|tgz|parquet|arrow|tfrecords?|np[yz]|gz|bz2|xz|zst))+$")


def _stem(uri: str) -> str:
    """Returns a file's name without its suffixes, from which output files get their names."""
    return re.sub(r"[.:\\\0]", "-", _SUFFIXES.sub("", storage.name(uri)))


def _with_table(source: Source, file: storage.Found) -> list[str]:
    """Returns the Parquet table that img2dataset writes beside a tar."""
    name = storage.name(file.uri)
    return [f"{file.uri.removesuffix(name)}{_SUFFIXES.sub('', name)}.parquet"]


@dataclasses.dataclass(frozen=True)
class Container:
    """A format whose files contain samples.

    Attributes:
        read: yields the samples of a file.
        siblings: names the files that are read with a file if they exist.
        labels: yields the labels of a file, if there is a quicker way than to read its samples.
        declared: returns the names that a file gives to its labels, if its format has any.
        inside: patterns for the files of a folder that is the path.
    """

    read: Reader
    siblings: Callable[[Source, storage.Found], list[str]] = lambda source, file: []
    labels: Callable[[InputShard], Iterator[Any]] | None = None
    declared: Callable[[InputShard], tuple[str, ...]] | None = None
    inside: tuple[str, ...] = ()


CONTAINERS = {
    "img2dataset": Container(tar.read, _with_table, inside=("*.tar",)),
    "img2dataset_parquet": Container(parquet.read, labels=parquet.label_values, declared=parquet.class_label),
    "arrow": Container(arrow.read, labels=arrow.label_values, declared=arrow.class_label, inside=arrow.INSIDE),
    "tfrecord": Container(tfrecord.read),
    "vectors": Container(vectors.read, vectors.siblings, inside=vectors.INSIDE),
}
LISTS: dict[str, Callable[[Source], Iterator[listing.Row]]] = {
    "coco": coco.rows,
    "image_folder": image_folder.rows,
    "image_list": image_list.rows,
    "inat2021": inat2021.rows,
    "swat": swat.rows,
    "table": table.rows,
    "webvision": webvision.rows,
    "yfcc15m": yfcc15m.rows,
}
# Lists that say by themselves how their classes are called.
_NAMINGS: dict[str, Callable[[Source], Naming | None]] = {
    "coco": coco.naming,
    "image_folder": image_folder.naming,
    "inat2021": inat2021.naming,
    "table": table.naming,
}
# Lists whose labels may be names.
_NAMED_LABELS = {"image_folder", "image_list", "table"}


def resolve(source: Source, data: str) -> Source:
    """Returns a source with whole paths, below the data folder; a folder of images is its own image root.

    All are literal but `path` and, of YFCC15M, `metadata`, which are patterns below a literal data folder.
    """
    is_folder = source.format == "image_folder"
    path = storage.join(data, source.path) if is_folder else _below(data, source.path)
    root = path if is_folder else storage.join(data, source.image_root)
    whole = _below if source.format == "yfcc15m" else storage.join
    return dataclasses.replace(
        source,
        path=path,
        image_root=root or ".",
        metadata=source.metadata and whole(data, source.metadata),
        class_names=source.class_names and storage.join(data, source.class_names),
    )


def _below(data: str, path: str) -> str:
    """Returns patterns below a folder, every character of which is literal."""
    return ",".join(storage.join(patterns.quote(data), part) for part in patterns.split(path))


def check_exists(source: Source, data: str) -> None:
    """Checks that the files of a source are there, without reading them; arguments as of `resolve`.

    Raises:
        UserError: names what is missing.
    """
    whole = resolve(source, data)
    if source.format == "image_folder":
        if not storage.entries(whole.image_root):
            raise UserError(f"{whole.image_root}: holds nothing; check --config.data and the source's path")
    else:
        patterns.files(whole.path, CONTAINERS[source.format].inside if source.format in CONTAINERS else ())
    is_list = source.format in LISTS and source.format != "table"
    literal = whole.metadata
    if source.format == "yfcc15m" and whole.metadata:
        patterns.glob(whole.metadata)
        literal = ""
    for file in (literal, whole.class_names, whole.image_root if is_list and source.image_root else ""):
        if file and not storage.exists(file):
            raise storage.MissingFile(f"{file}: no such file or folder")


def brought_dims(source: Source) -> dict[str, int]:
    """Returns the width of the vectors that a source provides, by column; none for sources of images."""
    return vectors.dims(source) if source.format == "vectors" else {}


def find_names(source: Source, data: str, embed: Embed, is_memory: bool = False) -> Naming | None:
    """Returns how a source names its classes; None if its labels are numbers, or it has none.

    Lists are read once more for this; of files of samples all labels are read if the first of them is a name, but of
    a memory's only a few.

    Args:
        source: as the config has it.
        data: folder that its paths are relative to.
        embed: the limits on sizes.
        is_memory: whether it is a memory, which may have classes that nothing is known of.

    Raises:
        UserError: as `plan`, or if names and numbers are mixed.
    """
    whole = resolve(source, data)
    _check_fields(whole)
    if whole.format in CONTAINERS:
        found = _names_in_files(whole, embed, is_memory)
    else:
        found = _declared(whole)
        if not found and whole.format in _NAMED_LABELS:
            found = naming.of_rows(whole, functools.partial(listed, whole))
    if found and source.first_label:
        raise UserError(f"{whole.path}: its classes have names; leave 'first_label' at 0, it is for numbers")
    return found


def declared_names(source: Source, data: str) -> tuple[str, ...]:
    """Returns the names that a list itself gives to the numbers that are its labels; empty if it gives none.

    No row is read for this; arguments and errors as of `find_names`.
    """
    found = _declared(resolve(source, data))
    return found.names if found and found.declared else ()


def _declared(whole: Source) -> Naming | None:
    return _NAMINGS[whole.format](whole) if whole.format in _NAMINGS else None


def _names_in_files(source: Source, embed: Embed, is_memory: bool) -> Naming | None:
    container = CONTAINERS[source.format]
    shards = _plan_files(source, container)
    if is_memory and source.format == "img2dataset":
        # The whole of the table beside a tar would have to be read for the few labels that are looked at.
        shards = [dataclasses.replace(shard, siblings=()) for shard in shards]
    values = functools.partial(_labels, container, embed)
    of_first = container.declared(shards[0]) if container.declared else ()
    if container.declared and of_first:
        same = naming.same_in_all((shard.uri, container.declared(shard)) for shard in shards)
        return Naming(same, functools.partial(naming.count_declared, same, shards, values), declared=True)
    return naming.of_shards(source.path, shards, values, not is_memory)


def _labels(container: Container, embed: Embed, shard: InputShard) -> Iterator[Any]:
    """Yields the label of each row of a shard that is of the source's part, as the source has it."""
    if container.labels:
        # Members are the numbers of rows there.
        yield from (
            label
            for number, label in enumerate(container.labels(shard))
            if parts.drawn(shard.source, shard.name, str(number))
        )
    else:
        yield from naming.read_labels(read, shard, embed)


def label_space(found: Naming, source: Source, data: str) -> LabelSpace:
    """Returns the label space that a training set defines, from its naming."""
    whole = resolve(source, data)
    rows = functools.partial(listed, whole) if whole.format in LISTS else None
    return naming.space(found, whole, rows)


def plan(
    source: Source,
    data: str,
    embed: Embed,
    folder: str,
    labels: Labels | None = None,
    counts: Counter[Any] | None = None,
) -> list[InputShard]:
    """Returns the shards of a source, in a fixed order, not yet numbered.

    Args:
        source: as the config has it.
        data: folder that its paths are relative to.
        embed: number of listed rows in a shard.
        folder: to write the rows of lists to.
        labels: how the names of its classes become labels; by default a list numbers its own.
        counts: is given the rows of each label of a list.

    Raises:
        UserError: if a field does not fit the format, nothing is found, a list is wrong, or a split has a class that
            the label space lacks.
    """
    whole = resolve(source, data)
    _check_fields(whole)
    if source.format in CONTAINERS:
        return _plan_files(whole, CONTAINERS[source.format])
    if labels is None and (found := find_names(source, data, embed)):
        labels = Labels(label_space(found, source, data), found.names if found.declared else (), found.names)
    rows = naming.numbered(whole, functools.partial(listed, whole), labels)
    return listing.plan(whole, rows, folder, embed, counts)


def listed(source: Source) -> Iterator[listing.Row]:
    """Yields the rows of a list with whole paths that have what its `where` asks for.

    Their paths are below the image root, or cannot be used. Labels are as the list has them, but numbers count from 0.

    Raises:
        UserError: if a list is wrong, or no row is left.
    """
    rows = map(functools.partial(listing.from_first, source), parts.having(source, LISTS[source.format](source)))
    if source.format == "image_folder":
        # A name in a folder is what it is.
        yield from rows
        return
    place = below(source.image_root)
    for row in rows:
        member = row.member if row.is_url else place(row.member)
        yield row if member == row.member else dataclasses.replace(row, member=member)


def _check_fields(source: Source) -> None:
    if source.fields and source.format not in _NAMED_FIELDS:
        raise UserError(f"source format {source.format}: its fields have no names; leave 'fields' empty")
    if source.class_names and source.format not in LISTS:
        raise UserError(f"source format {source.format}: takes no class names; leave 'class_names' empty")
    if source.class_level != 1 and source.format != "image_folder":
        raise UserError(f"source format {source.format}: has no folders that are classes; leave 'class_level' at 1")
    if source.format in CONTAINERS and (source.classes or source.where):
        raise UserError(f"source format {source.format}: is not a list; leave 'classes' and 'where' empty")


def passed_over(source: Source, data: str) -> Counter[str]:
    """Returns the number of files that a source's folder has and its rows do not name, by suffix.

    Only a folder of images can tell; members of files of samples are counted where they are read.
    """
    return image_folder.passed_over(resolve(source, data)) if source.format == "image_folder" else Counter()


def _plan_files(source: Source, container: Container) -> list[InputShard]:
    shards: dict[str, InputShard] = {}
    for file in patterns.files(source.path, container.inside):
        if storable_text(file.uri) != file.uri:
            raise UserError(f"{storable_text(file.uri)}: its name is not UTF-8 text; rename it")
        name = _stem(file.uri)
        if name in shards:
            raise UserError(f"{file.uri}: has the same name as {shards[name].uri}; outputs are named after their shard")
        siblings = [found for uri in container.siblings(source, file) if (found := storage.found(uri))]
        etag = "+".join([file.etag, *(sibling.etag for sibling in siblings)])
        uris = tuple(sibling.uri for sibling in siblings)
        shards[name] = InputShard(source, name, file.uri, file.size_bytes, etag, siblings=uris)
    return list(shards.values())


def read(shard: InputShard, embed: Embed) -> Iterator[Sample | Reject | Filtered]:
    """Yields the samples and rejects of one shard that are of the source's part, in the order of the source."""
    if shard.listing:
        return listing.read(shard, embed)
    items = CONTAINERS[shard.source.format].read(shard, embed)
    return (item for item in items if parts.drawn(shard.source, shard.name, item.member))


def read_image(source: Source, container: str, member: str, embed: Embed) -> bytes:
    """Returns the encoded image of a row again; what is refused at first reading is refused here.

    Args:
        source: that the row was read from, with whole paths (`resolve`).
        container: its `source_shard`: the file or, for lists, the folder that it was found in.
        member: its name there.
        embed: the limits on sizes.

    Raises:
        UserError: if it no longer exists, is too large, or was never an image.
    """
    if source.format == "vectors":
        raise UserError(f"{container}: contains vectors, so there are no images to show")
    if source.format not in CONTAINERS:
        with contextlib.ExitStack() as stack:
            images = Images(container, embed, stack)
            try:
                # A path like this was rejected, so this one is a URL.
                return images.fetch(member) if "://" in member else images.read(member)
            except Unreadable as error:
                raise UserError(f"{container}, {member}: {error}; it has changed since it was embedded") from error
    shard = InputShard(dataclasses.replace(source, part=()), "", container, 0, "")
    item = next((item for item in read(shard, embed) if item.member == member), None)
    if not isinstance(item, Sample):
        why = item.message if isinstance(item, Reject) else "is not there"
        raise UserError(f"{container}, {member}: {why}; the file has changed since it was embedded")
    return item.image


def read_images(
    source: Source, container: str, members: Collection[str], embed: Embed
) -> Iterator[tuple[str, bytes | None]]:
    """Yields names and encoded images of some rows of one container, each once; None for what cannot be read now.

    A file of samples is read once, from its begin, until the last of them is found. Arguments as of `read_image`.

    Raises:
        UserError: if the container no longer exists, or never held images.
    """
    if source.format == "vectors":
        raise UserError(f"{container}: contains vectors, so there are no images to show")
    if source.format not in CONTAINERS:
        with contextlib.ExitStack() as stack:
            images = Images(container, embed, stack)
            for member in members:
                try:
                    yield member, images.fetch(member) if "://" in member else images.read(member)
                except Unreadable:
                    yield member, None
        return
    left = set(members)
    for item in read(InputShard(dataclasses.replace(source, part=()), "", container, 0, ""), embed):
        if item.member in left:
            left.remove(item.member)
            yield item.member, item.image if isinstance(item, Sample) else None
        if not left:
            return
    yield from ((member, None) for member in sorted(left))
