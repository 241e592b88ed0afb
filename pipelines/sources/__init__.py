"""Readers of image sources: which shards there are, and the samples of one shard as a stream.

A format is either of files that hold samples, each file a shard, or of lists that name images below a folder. Both
are registered here by name. A reader never fails for one bad row: it yields a `Reject` and goes on. Images stay
encoded bytes; decoding is left to `decode`, vectors to `inference`.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator

from configs.base import Embed, Source
from pipelines import storage
from pipelines.errors import UserError, nearest
from pipelines.sources import listing, parts
from pipelines.sources.files import parquet, tar, tfrecord, vectors
from pipelines.sources.lists import image_folder, image_list, inat2021, table, webvision, yfcc15m
from pipelines.sources.sample import Filtered, InputShard, Reject, Sample

# Formats whose files name their fields; the others have places for what they hold.
_NAMED_FIELDS = {"img2dataset", "img2dataset_parquet", "tfrecord", "vectors", "table"}

Reader = Callable[[InputShard, Embed], Iterator[Sample | Reject | Filtered]]


_SUFFIXES = re.compile(r"(\.(tar|tgz|parquet|tfrecords?|npy|gz|bz2|xz|zst))+$")


def _stem(uri: str) -> str:
    """Returns a file's name without its suffixes, as output files can be named after it."""
    return _SUFFIXES.sub("", storage.name(uri)).replace(".", "-")


def _with_table(source: Source, file: storage.Found) -> list[str]:
    """Returns the Parquet table that img2dataset writes beside a tar."""
    name = storage.name(file.uri)
    return [f"{file.uri.removesuffix(name)}{_SUFFIXES.sub('', name)}.parquet"]


@dataclasses.dataclass(frozen=True)
class Container:
    """A format whose files hold samples.

    Attributes:
        read: yields what a file holds.
        siblings: names the files that are read with a file, as far as they are there.
    """

    read: Reader
    siblings: Callable[[Source, storage.Found], list[str]] = lambda source, file: []


CONTAINERS = {
    "img2dataset": Container(tar.read, _with_table),
    "img2dataset_parquet": Container(parquet.read),
    "tfrecord": Container(tfrecord.read),
    "vectors": Container(vectors.read, vectors.siblings),
}
LISTS: dict[str, Callable[[Source], Iterator[listing.Row]]] = {
    "image_folder": image_folder.rows,
    "image_list": image_list.rows,
    "inat2021": inat2021.rows,
    "table": table.rows,
    "webvision": webvision.rows,
    "yfcc15m": yfcc15m.rows,
}


def resolve(source: Source, data: str) -> Source:
    """Returns a source with whole paths: the data folder joined in; a folder of images is its own image root."""
    path = ",".join(storage.join(data, part) for part in storage.parts(source.path))
    root = path if source.format == "image_folder" else storage.join(data, source.image_root)
    return dataclasses.replace(
        source,
        path=path,
        image_root=root or ".",
        metadata=source.metadata and storage.join(data, source.metadata),
        class_names=source.class_names and storage.join(data, source.class_names),
    )


def brought_dims(source: Source) -> dict[str, int]:
    """Returns the width of the vectors that a source brings, by column; none for sources of images."""
    return vectors.dims(source) if source.format == "vectors" else {}


def plan(source: Source, data: str, embed: Embed, folder: str) -> list[InputShard]:
    """Returns the shards of a source, in a fixed order, not yet numbered.

    Args:
        source: as the config has it.
        data: folder that its paths are relative to.
        embed: how many rows of a list make a shard.
        folder: where the rows of lists are written.

    Raises:
        UserError: if the format is unknown, nothing is found, or a list is wrong.
    """
    whole = resolve(source, data)
    if source.format not in {*CONTAINERS, *LISTS}:
        raise UserError(f"source format {source.format!r} is unknown; {nearest(source.format, [*CONTAINERS, *LISTS])}")
    if source.fields and source.format not in _NAMED_FIELDS:
        raise UserError(f"source format {source.format}: its fields have no names; leave 'fields' empty")
    if source.class_names and source.format not in LISTS:
        raise UserError(f"source format {source.format}: takes no class names; leave 'class_names' empty")
    if source.format in CONTAINERS:
        if source.classes or source.part:
            raise UserError(f"source format {source.format}: is no list; leave 'classes' and 'part' empty")
        return _plan_files(whole, CONTAINERS[source.format])
    rows = functools.partial(LISTS[source.format], whole)
    return listing.plan(whole, parts.chosen(whole, rows), folder, embed)


def _plan_files(source: Source, container: Container) -> list[InputShard]:
    files = storage.glob(source.path)
    if not files:
        raise UserError(f"{source.path}: matches no file; check --config.data and the source's path")
    shards: dict[str, InputShard] = {}
    for file in files:
        name = _stem(file.uri)
        if name in shards:
            raise UserError(f"{file.uri}: has the same name as {shards[name].uri}; outputs are named after their shard")
        siblings = [found for uri in container.siblings(source, file) if (found := storage.found(uri))]
        etag = "+".join([file.etag, *(sibling.etag for sibling in siblings)])
        uris = tuple(sibling.uri for sibling in siblings)
        shards[name] = InputShard(source, name, file.uri, file.size_bytes, etag, siblings=uris)
    return list(shards.values())


def read(shard: InputShard, embed: Embed) -> Iterator[Sample | Reject | Filtered]:
    """Yields the samples and rejects of one shard, in the order of the source."""
    return listing.read(shard, embed) if shard.listing else CONTAINERS[shard.source.format].read(shard, embed)


def read_image(source: Source, container: str, member: str, embed: Embed) -> bytes:
    """Returns the encoded image of a row again.

    Args:
        source: that the row was read from.
        container: its `source_shard`: the file or, for lists, the folder that it was found in.
        member: its name there.
        embed: the limits on sizes.

    Raises:
        UserError: if it is not there any more, too large, or was never an image.
    """
    if source.format not in CONTAINERS:
        return storage.read_image(container, member, embed.max_image_bytes)
    if source.format == "vectors":
        raise UserError(f"{container}: holds vectors, there are no images to show")
    shard = InputShard(source, "", container, 0, "")
    item = next((item for item in read(shard, embed) if item.member == member), None)
    if not isinstance(item, Sample):
        why = item.message if isinstance(item, Reject) else "is not there"
        raise UserError(f"{container}, {member}: {why}; the file has changed since it was embedded")
    return item.image
