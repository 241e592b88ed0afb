"""Opens the output folders of the memory and the splits: who they belong to, and which shards are still to be done.

What happens to a shard is up to `shard_run`, the pipeline to `job`, which rows are used to `pipelines.filtering`.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from configs.base import Embed, Source
from pipelines import manifest, mentions, schemas, sources, storage
from pipelines.embedding import classes, expected
from pipelines.embedding.classes import Classes
from pipelines.embedding.request import MEMORY, Request
from pipelines.encoders.handles import EncoderSpec
from pipelines.errors import UserError
from pipelines.filtering.conditions import remarks
from pipelines.filtering.selection import MemoryShard, MemoryShards
from pipelines.manifest import Marker
from pipelines.progress import counted
from pipelines.sources import InputShard
from pipelines.sources.labels import Labels
from pipelines.upkeep import compaction

_STAGE = "pipelines.embed"
# Filters that decide which rows are embedded; the others are applied to embedded rows.
_ROW_FILTERS = ("min_side", "max_aspect", "min_caption_chars", "max_caption_chars", "metadata")
# Fields of a source that are newer than the first folders: part of the identity only where they choose among rows.
_LATER_FIELDS = ("classes", "part", "part_seed", "caption_number")


@dataclasses.dataclass
class Folder:
    """One output folder: the memory or a split; `beside` counts the files that its source passes over, by suffix."""

    name: str
    path: str
    config_hash: str
    encoders: dict[str, EncoderSpec]
    shards: list[InputShard]
    done: dict[str, Marker]
    labels: Labels | None = None
    attempts: dict[str, int] = dataclasses.field(default_factory=dict)
    beside: Counter[str] = dataclasses.field(default_factory=Counter)

    @property
    def is_memory(self) -> bool:
        """Whether this is the memory, which is filtered, and not a split, which is not."""
        return self.name == MEMORY

    @property
    def markers(self) -> list[Marker]:
        """The markers of all shards, in their order; every shard must be done."""
        return [self.done[shard.name] for shard in self.shards]

    @property
    def passed_over(self) -> Counter[str]:
        """Files of the source and members of its files that belong to no row, by suffix; every shard must be done."""
        return sum((Counter(marker.passed_over) for marker in self.markers), self.beside)

    @property
    def pending(self) -> list[InputShard]:
        """The shards that are not done."""
        return [shard for shard in self.shards if shard.name not in self.done]

    def forget_changed(self) -> None:
        """Removes the markers of shards whose input has changed since they were embedded."""
        for shard in self.shards:
            marker = self.done.get(shard.name)
            if marker and not _is_of(marker, shard):
                self._forget(shard.name)

    def forget_incomplete(self) -> None:
        """Removes the markers of shards whose list of rejected or filtered rows is gone."""
        for part, digest in ((manifest.REJECTS, "rejects_sha256"), (manifest.FILTERED, "filtered_sha256")):
            there = {storage.name(path) for path in storage.files(storage.join(self.path, part), ".parquet")}
            for name in [name for name, marker in self.done.items() if getattr(marker, digest)]:
                if f"{name}.parquet" not in there:
                    self._forget(name)

    def retry(self) -> None:
        """Removes the markers of shards with rejected rows that may be readable now."""
        for name in [name for name, marker in self.done.items() if marker.retryable]:
            self.attempts[name] = self.done[name].attempt + 1
            self._forget(name)

    def _forget(self, name: str) -> None:
        storage.remove(storage.join(self.path, manifest.MARKERS, f"{name}.json"))
        del self.done[name]

    def shards_done(self) -> MemoryShards:
        """Returns the shards, all of which must be done, as `selection` takes them."""
        shards = tuple(MemoryShard(m.number, m.name, m.rows_out, m.output_sha256) for m in self.markers)
        return MemoryShards(self.path, self.config_hash, self.encoders["key"].info, shards)

    def refresh(self) -> None:
        """Reads the markers on storage; those without an output do not count."""
        outputs = {storage.name(path) for path in storage.files(self.path, ".parquet")}
        markers = manifest.read_markers(self.path, self.config_hash, known=self.done)
        self.done = {name: marker for name, marker in markers.items() if f"{name}.parquet" in outputs}


def open_all(request: Request, specs: Mapping[str, EncoderSpec], named: Classes, retry_rejects: bool) -> list[Folder]:
    """Claims the output folders of the memory (all columns) and of the splits (keys only), the memory first.

    Args:
        request: names the sources and the folders.
        specs: of each vector column.
        named: the label space of the request.
        retry_rejects: whether to embed shards again whose rejected rows may be readable now.

    Raises:
        UserError: if a source cannot be listed, its list is not that of the protocol, or a folder is another config's.
    """
    folders = [_open(name, request, _columns(name, specs), named) for name in request.sources]
    expected.check_train_and_val({one.name: sum(shard.rows for shard in one.shards) for one in folders}, request)
    for folder in folders:
        if retry_rejects:
            folder.retry()
        if folder.pending:
            storage.remove(storage.join(folder.path, manifest.COMPLETE_FILE))
    return folders


def _columns(name: str, specs: Mapping[str, EncoderSpec]) -> dict[str, EncoderSpec]:
    """Returns the encoders of the vector columns of a folder: all of the memory, of a split that of keys."""
    return dict(specs) if name == MEMORY else {"key": specs["key"]}


def _planned(name: str, request: Request, source: Source, named: Classes, listings: str) -> list[InputShard]:
    """Returns the shards of a source, not yet numbered; a `UserError` if labels or rows are not those expected.

    Args:
        name: of the memory or the split.
        request: names the sources.
        source: with whole paths.
        named: the label space of the request.
        listings: folder for the rows of lists.
    """
    counts: Counter[Any] = Counter()
    shards = sources.plan(
        request.sources[name], request.places.data, request.embed, listings, named.of_planning(name), counts
    )
    named.check_numbers(name, source, counts)
    expected.check(name, source.path, sum(shard.rows for shard in shards), counts, request)
    return shards


def _open(name: str, request: Request, specs: dict[str, EncoderSpec], named: Classes) -> Folder:
    path, source = request.folder(name), sources.resolve(request.sources[name], request.places.data)
    identity = {**_identity(name, source, request, specs), **named.identity(name)}
    listings = storage.join(path, manifest.LISTINGS)
    manifest.release(path, _STAGE, identity)
    classes.check_stored(path, identity.get(manifest.CLASSES, ()))
    manifest.check_claim(path, _STAGE, identity)
    storage.remove_temporaries(path)
    # Listed before the folder is claimed: a source that is missing claims nothing.
    shards = _planned(name, request, source, named, listings)
    config_hash = manifest.claim(path, _STAGE, identity)
    manifest.write_config(path, request.places.config)
    wanted = {storage.name(shard.listing) for shard in shards}
    for listing in storage.files(listings, ".parquet"):
        if storage.name(listing) not in wanted:
            storage.remove(listing)
    if name == MEMORY:
        compaction.finish(path, manifest.indexed_memory(request.places.index))
    labels, markers = named.of_reading(name, source), manifest.read_markers(path, config_hash)
    beside = sources.passed_over(request.sources[name], request.places.data)
    numbered = _numbered(path, config_hash, shards, markers)
    folder = Folder(name, path, config_hash, specs, numbered, markers, labels, beside=beside)
    folder.refresh()
    folder.forget_changed()
    folder.forget_incomplete()
    return folder


def foresee(request: Request, specs: Mapping[str, EncoderSpec], named: Classes, scratch: str) -> dict[str, str]:
    """Returns for the memory and each split what is done and what would be, in words, and writes to no output folder.

    Args:
        request: names the sources and the folders.
        specs: of each vector column.
        named: the label space of the request.
        scratch: folder for the rows of lists.

    Raises:
        UserError: as `open_all`.
    """
    found = {}
    for name in request.sources:
        path, source = request.folder(name), sources.resolve(request.sources[name], request.places.data)
        columns = _columns(name, specs)
        identity = {**_identity(name, source, request, columns), **named.identity(name)}
        config_hash = manifest.config_hash(_STAGE, identity)
        classes.check_stored(path, identity.get(manifest.CLASSES, ()))
        if storage.files(storage.join(path, manifest.MARKERS), ".json"):
            manifest.check_claim(path, _STAGE, identity)
        shards = _planned(name, request, source, named, storage.join(scratch, name))
        folder = Folder(name, path, config_hash, columns, shards, {})
        folder.refresh()
        kept = [folder.done[s.name] for s in shards if s.name in folder.done and _is_of(folder.done[s.name], s)]
        found[name] = _foreseen(shards, kept)
    return found


def _is_of(marker: Marker, shard: InputShard) -> bool:
    return (marker.size_bytes, marker.etag) == (shard.size_bytes, shard.etag)


def _foreseen(shards: Sequence[InputShard], done: Sequence[Marker]) -> str:
    names = {marker.name for marker in done}
    left = [shard for shard in shards if shard.name not in names]
    rows = sum(shard.rows for shard in left)
    size = counted(rows, "row") if all(shard.rows for shard in left) else f"{sum(s.size_bytes for s in left):,} bytes"
    said = f"{len(done):,} of {counted(len(shards), 'shard')} done ({counted(sum(m.rows_out for m in done), 'row')})"
    return f"{said}; would embed {len(left):,}, of {size}" if left else f"{said}; nothing to embed"


def open_one(
    path: str,
    source: Source,
    data: str,
    embed: Embed,
    specs: Mapping[str, EncoderSpec],
    labels: Labels | None,
    identity: Mapping[str, Any],
) -> Folder:
    """Claims the folder of one source on its own, which is no split of a request.

    Args:
        path: of the folder.
        source: as the config has it.
        data: folder that its paths are relative to.
        embed: batch size and limits.
        specs: of each vector column.
        labels: how names of classes become numbers; None if the source has none.
        identity: what else decides what becomes of it.

    Raises:
        UserError: if the source cannot be listed, or the folder is another configuration's.
    """
    whole, listings = sources.resolve(source, data), storage.join(path, manifest.LISTINGS)
    own = {"source": _described(whole), "encoders": {column: dataclasses.asdict(s.info) for column, s in specs.items()}}
    own |= {"limits": [embed.batch_size, embed.list_shard_rows, embed.max_image_bytes, embed.max_image_pixels]}
    config_hash = manifest.claim(path, _STAGE, {**own, **identity})
    storage.remove_temporaries(path)
    shards = sources.plan(source, data, embed, listings, labels)
    reading = labels
    if labels and source.format not in sources.CONTAINERS:
        # Those of lists are numbers once they are planned.
        reading = dataclasses.replace(labels, declared=(), own=())
    markers = manifest.read_markers(path, config_hash)
    folder = Folder(
        storage.name(path),
        path,
        config_hash,
        dict(specs),
        _numbered(path, config_hash, shards, markers),
        markers,
        reading,
        beside=sources.passed_over(source, data),
    )
    folder.refresh()
    folder.forget_changed()
    folder.forget_incomplete()
    return folder


def _identity(name: str, source: Source, request: Request, specs: Mapping[str, EncoderSpec]) -> dict[str, Any]:
    """Returns everything that decides the bytes of a folder; its source has whole paths."""
    return {
        "source": _described(source),
        "encoders": {column: dataclasses.asdict(spec.info) for column, spec in specs.items()},
        "filters": _row_filters(request) if name == MEMORY else {},
        "batch_size": request.embed.batch_size,
        "list_shard_rows": request.embed.list_shard_rows,
        "max_image_bytes": request.embed.max_image_bytes,
        "max_image_pixels": request.embed.max_image_pixels,
    }


def _row_filters(request: Request) -> dict[str, object]:
    own: dict[str, object] = {name: getattr(request.filters, name) for name in _ROW_FILTERS}
    concepts = [manifest.fingerprint(request.names), mentions.RULES]
    return own | ({"concepts": concepts} if request.filters.concepts else {})


def _described(source: Source) -> dict[str, object]:
    fields = dataclasses.asdict(source)
    if source.class_level == 1:
        del fields["class_level"]
    for name in ("where", "first_label"):
        if not fields[name]:
            del fields[name]
    return {name: value for name, value in fields.items() if name not in _LATER_FIELDS or source.part or value}


def _numbered(path: str, config_hash: str, shards: list[InputShard], markers: Mapping[str, Marker]) -> list[InputShard]:
    """Returns the shards with their numbers; a name keeps the number it first got, since ids are made of it."""
    names = _known_names(path, config_hash, markers)
    free = [number for number, name in enumerate(names) if not name]
    known = set(names)
    for shard in shards:
        if shard.name not in known and free:
            names[free.pop(0)] = shard.name
        elif shard.name not in known:
            names.append(shard.name)
    storage.write_json(storage.join(path, manifest.INPUTS_FILE), {"config_hash": config_hash, "names": names})
    numbers = {name: number for number, name in enumerate(names)}
    return [dataclasses.replace(shard, number=numbers[shard.name]) for shard in shards]


def _known_names(path: str, config_hash: str, markers: Mapping[str, Marker]) -> list[str]:
    """Returns the names of the shards by number, an empty one for a number that is free.

    They are in `inputs.json`. If that is missing, damaged or of another configuration, the markers know them.

    Raises:
        UserError: if a marker has the number of another shard.
    """
    file = storage.join(path, manifest.INPUTS_FILE)
    try:
        stored = schemas.read_json(file, {"config_hash": str, "names": [str]}, "")
    except UserError:
        stored = {"config_hash": "", "names": []}
    names: list[str] = stored["names"] if stored["config_hash"] == config_hash else []
    numbers = {name: number for number, name in enumerate(names) if name}
    names += [""] * (1 + max((marker.number for marker in markers.values()), default=-1) - len(names))
    for name, marker in markers.items():
        if numbers.get(name, marker.number) != marker.number or names[marker.number] not in ("", name):
            raise UserError(
                f"{storage.join(path, manifest.MARKERS, name)}.json: has the number {marker.number}, which "
                f"{manifest.INPUTS_FILE} gives to another shard; remove it and run web-memory embed again"
            )
        names[marker.number] = name
    return names


def check_rejects(folder: Folder, max_share: float, conditions: Sequence[str] = ()) -> None:
    """Checks that enough rows of a folder were embedded; every shard must be done.

    Filtered rows are no fault of the source, but a folder without a row is of no use either.

    Args:
        folder: that is checked.
        max_share: of its rows may be rejected.
        conditions: on the metadata of its rows.

    Raises:
        UserError: with the most frequent reasons, if more than `max_share` of the rows were rejected or none is left.
    """
    markers = folder.markers
    total, kept = sum(m.rows_in for m in markers), sum(m.rows_out for m in markers)
    rejected, filtered = sum(m.rows_rejected for m in markers), filtered_by(markers)
    if not total:
        raise UserError(f"{folder.path}: its source holds no image; check the source's path")
    if not kept and filtered.total() >= rejected:
        said = "; ".join([*remarks(conditions, filtered, kept), "check --config.filters"])
        raise UserError(f"{folder.path}: every row was filtered{_but(rejected)} ({_top(filtered)}); {said}")
    if kept and rejected <= max_share * total:
        return
    limit = f"more than --config.embed.max_rejects_share={max_share}" if kept else "and no row is left"
    reasons = _rejected(folder.path, markers)
    hint = "; rows without a caption are left out by --config.filters.min_caption_chars=1"
    raise UserError(
        f"{folder.path}: {rejected:,} of {total:,} rows rejected ({_top(reasons)}), {limit}; "
        f"see {storage.join(folder.path, manifest.REJECTS)}{hint if reasons['EmptyCaption'] else ''}"
    )


def _but(rejected: int) -> str:
    return f" or, {rejected:,} of them, rejected" if rejected else ""


def filtered_by(markers: Sequence[Marker]) -> Counter[str]:
    """Returns how many rows were filtered, by filter."""
    return sum((Counter(marker.filtered) for marker in markers), Counter())


def _rejected(path: str, markers: list[Marker]) -> Counter[str]:
    found: Counter[str] = Counter()
    for marker in markers:
        if marker.rows_rejected:
            file = storage.join(path, manifest.REJECTS, f"{marker.name}.parquet")
            if marker.rejects_sha256:
                storage.check_sha256(file, marker.rejects_sha256, "remove it and run web-memory embed again")
            found.update(schemas.read(file, ["error_type"])["error_type"].to_pylist())
    return found


def _top(counts: Counter[str]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in counts.most_common(3))
