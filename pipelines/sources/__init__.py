"""Readers of image sources: the shards of a source, and the samples of one shard as a stream.

The files of a format either contain samples, a shard in each file, or list images below a folder. Both are registered
here by name. A reader does not fail on a bad row: it yields a `Reject` and continues. Images stay encoded bytes:
`decode` decodes them, `inference` embeds them.
"""

import contextlib
import dataclasses
import functools
import re
from collections.abc import Callable, Iterator

from configs.base import Embed, Source
from pipelines import storage
from pipelines.errors import UserError
from pipelines.sources import listing, parts, patterns
from pipelines.sources.files import parquet, tar, tfrecord, vectors
from pipelines.sources.images import Images
from pipelines.sources.lists import image_folder, image_list, inat2021, table, webvision, yfcc15m
from pipelines.sources.sample import Filtered, InputShard, Reject, Sample
from pipelines.sources.web import Unreadable

# Formats whose fields have names that the source's `fields` can choose.
_NAMED_FIELDS = {"img2dataset", "img2dataset_parquet", "tfrecord", "vectors", "table"}

Reader = Callable[[InputShard, Embed], Iterator[Sample | Reject | Filtered]]


_SUFFIXES = re.compile(r"(\.(tar|tgz|parquet|tfrecords?|npy|gz|bz2|xz|zst))+$")


def _stem(uri: str) -> str:
    """Returns a file's name without its suffixes, from which output files get their names."""
    return _SUFFIXES.sub("", storage.name(uri)).replace(".", "-")


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
    """Returns a source with whole paths, below the data folder; a folder of images is its own image root."""
    path = ",".join(storage.join(data, part) for part in patterns.split(source.path))
    root = path if source.format == "image_folder" else storage.join(data, source.image_root)
    return dataclasses.replace(
        source,
        path=path,
        image_root=root or ".",
        metadata=source.metadata and storage.join(data, source.metadata),
        class_names=source.class_names and storage.join(data, source.class_names),
    )


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
        patterns.files(whole.path)
    is_list = source.format in LISTS and source.format != "table"
    for file in (whole.metadata, whole.class_names, whole.image_root if is_list and source.image_root else ""):
        if file and not storage.exists(file):
            raise storage.MissingFile(f"{file}: no such file or folder")


def brought_dims(source: Source) -> dict[str, int]:
    """Returns the width of the vectors that a source provides, by column; none for sources of images."""
    return vectors.dims(source) if source.format == "vectors" else {}


def plan(source: Source, data: str, embed: Embed, folder: str) -> list[InputShard]:
    """Returns the shards of a source, in a fixed order, not yet numbered.

    Args:
        source: as the config has it.
        data: folder that its paths are relative to.
        embed: number of listed rows in a shard.
        folder: to write the rows of lists to.

    Raises:
        UserError: if a field does not fit the format, nothing is found, or a list is wrong.
    """
    whole = resolve(source, data)
    if source.fields and source.format not in _NAMED_FIELDS:
        raise UserError(f"source format {source.format}: its fields have no names; leave 'fields' empty")
    if source.class_names and source.format not in LISTS:
        raise UserError(f"source format {source.format}: takes no class names; leave 'class_names' empty")
    if source.format in CONTAINERS:
        if source.classes or source.part:
            raise UserError(f"source format {source.format}: is not a list; leave 'classes' and 'part' empty")
        return _plan_files(whole, CONTAINERS[source.format])
    rows = functools.partial(LISTS[source.format], whole)
    return listing.plan(whole, parts.chosen(whole, rows), folder, embed)


def _plan_files(source: Source, container: Container) -> list[InputShard]:
    shards: dict[str, InputShard] = {}
    for file in patterns.files(source.path):
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
    shard = InputShard(source, "", container, 0, "")
    item = next((item for item in read(shard, embed) if item.member == member), None)
    if not isinstance(item, Sample):
        why = item.message if isinstance(item, Reject) else "is not there"
        raise UserError(f"{container}, {member}: {why}; the file has changed since it was embedded")
    return item.image
