"""Plans an embedding job: which encoders, which output folders, which shards of them are still to be done.

What is done to a shard is left to `inference`, the pipeline to `embed_job`, which rows are used to `selection`.
"""

import concurrent.futures
import dataclasses
from collections import Counter

import pyarrow as pa

from configs.base import Config, Filters, Source
from pipelines import manifest, schemas, sources, storage
from pipelines.encoders import handles
from pipelines.encoders.handles import PRECOMPUTED, EncoderSpec
from pipelines.errors import UserError
from pipelines.filtering import row_filters
from pipelines.filtering.selection import MemoryShard, MemoryShards
from pipelines.manifest import Marker
from pipelines.sources import InputShard
from pipelines.upkeep import compaction

_INPUTS_FILE = "inputs.json"
_LISTINGS = "_inputs"
MEMORY = "memory"


@dataclasses.dataclass
class Folder:
    """One output folder: the memory or a split."""

    name: str
    path: str
    config_hash: str
    encoders: dict[str, EncoderSpec]
    shards: list[InputShard]
    done: dict[str, Marker]
    attempts: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def is_memory(self) -> bool:
        """Whether it is the memory, which is filtered, and not a split of queries, which is not."""
        return self.name == MEMORY

    @property
    def markers(self) -> list[Marker]:
        """The markers of all shards, which must be done, in their order."""
        return [self.done[shard.name] for shard in self.shards]

    @property
    def pending(self) -> list[InputShard]:
        """The shards that are not done."""
        return [shard for shard in self.shards if shard.name not in self.done]

    def forget_changed(self) -> None:
        """Removes the markers of shards whose input is another than when they were embedded."""
        for shard in self.shards:
            marker = self.done.get(shard.name)
            if marker and (marker.size_bytes, marker.etag) != (shard.size_bytes, shard.etag):
                self._forget(shard.name)

    def retry(self) -> None:
        """Removes the markers of shards with rejects that another attempt may read."""
        for name in [name for name, marker in self.done.items() if marker.retryable]:
            self.attempts[name] = self.done[name].attempt + 1
            self._forget(name)

    def _forget(self, name: str) -> None:
        storage.remove(storage.join(self.path, manifest.MARKERS, f"{name}.json"))
        del self.done[name]

    def shards_done(self) -> MemoryShards:
        """Returns the shards, which must be done, as `selection` takes them."""
        shards = tuple(MemoryShard(m.number, m.name, m.rows_out, m.output_sha256) for m in self.markers)
        return MemoryShards(self.path, self.config_hash, self.encoders["key"].info, shards)

    def refresh(self) -> None:
        """Reads the markers that are there now, of outputs that are still there."""
        outputs = {storage.name(path) for path in storage.files(self.path, ".parquet")}
        markers = manifest.read_markers(self.path, self.config_hash, known=self.done)
        self.done = {name: marker for name, marker in markers.items() if f"{name}.parquet" in outputs}


def resolve_encoders(config: Config) -> dict[str, EncoderSpec]:
    """Returns the encoder of each vector column that the config names.

    Raises:
        UserError: if one is unknown, of the wrong kind, or there is none for keys.
    """
    wanted, named = config.encoders, handles.columns(config.encoders)
    brought: dict[str, int] = {}
    for source in (config.memory, *config.queries.values()):
        if source.path:
            brought |= sources.brought_dims(sources.resolve(source, config.data))

    def resolve(column: str) -> EncoderSpec:
        handle, _ = named[column]
        if not handle.startswith(PRECOMPUTED):
            return handles.resolve(handle, wanted.dtype, wanted.normalize, wanted.crop_fraction)
        if column not in brought:
            raise UserError(f"--config.encoders: {column} is {handle}, but no source brings such vectors")
        return handles.precomputed(handle, brought[column], wanted.dtype, wanted.normalize)

    # Building an encoder waits for the network, then takes one core: together they are done sooner.
    with concurrent.futures.ThreadPoolExecutor() as pool:
        specs = dict(zip(named, pool.map(resolve, named), strict=True))
    for column, spec in specs.items():
        kind = named[column][1]
        if spec.kind not in (kind, "precomputed"):
            raise UserError(f"--config.encoders: {column} is {spec.handle}, an encoder of {spec.kind}s, not {kind}s")
    return specs


def _number(path: str, shards: list[InputShard]) -> list[InputShard]:
    """Numbers the shards; a name once numbered keeps its number, since ids are made of it."""
    file = storage.join(path, _INPUTS_FILE)
    names: list[str] = storage.read_json(file) if storage.exists(file) else []
    known = set(names)
    names += [shard.name for shard in shards if shard.name not in known]
    storage.write_json(file, names)
    numbers = {name: number for number, name in enumerate(names)}
    return [dataclasses.replace(shard, number=numbers[shard.name]) for shard in shards]


def resolve_filters(config: Config) -> Filters:
    """Returns the filters with the whole path of the opt-out list; a `UserError` if a condition cannot be parsed."""
    row_filters.RowFilters(config.filters)
    listed = config.filters.opt_out
    return dataclasses.replace(config.filters, opt_out=storage.join(config.data, listed) if listed else "")


def _row_filters(wanted: Filters) -> dict[str, object]:
    """Returns the filters that decide what is embedded; the others are applied to what was."""
    names = ("min_side", "max_aspect", "min_caption_chars", "max_caption_chars", "metadata")
    return {name: getattr(wanted, name) for name in names}


def _described(source: Source) -> dict[str, object]:
    """Returns all fields of a source; those that came later only where they choose among its rows."""
    later = ("classes", "part", "part_seed")
    fields = dataclasses.asdict(source)
    return {name: value for name, value in fields.items() if name not in later or source.part or value}


def _check_rows(name: str, path: str, listed: int, config: Config) -> None:
    """Raises a `UserError` if a list is not that of the protocol, before hours are spent on it."""
    wanted = 0 if name == MEMORY else getattr(config.protocol, f"{name}_rows")
    if wanted and listed != wanted:
        raise UserError(
            f"{path}: names {listed:,} images for {name}, {abs(wanted - listed):,} "
            f"{'fewer' if listed < wanted else 'more'} than the {wanted:,} of the protocol; get the published list, or "
            f"set --config.protocol.{name}_rows={listed} to take it as it is"
        )


def _open_folder(name: str, path: str, source: Source, config: Config, specs: dict[str, EncoderSpec]) -> Folder:
    whole = sources.resolve(source, config.data)
    identity = {
        "source": _described(whole),
        "encoders": {column: dataclasses.asdict(spec.info) for column, spec in specs.items()},
        "filters": _row_filters(config.filters) if name == MEMORY else {},
        "batch_size": config.embed.batch_size,
        "list_shard_rows": config.embed.list_shard_rows,
        "max_image_bytes": config.embed.max_image_bytes,
        "max_image_pixels": config.embed.max_image_pixels,
    }
    listings = storage.join(path, _LISTINGS)
    manifest.check_claim(path, "pipelines.embed", identity)
    storage.remove_temporaries(path)
    # A folder is not taken for a source that is not there.
    shards = sources.plan(source, config.data, config.embed, listings)
    _check_rows(name, whole.path, sum(shard.rows for shard in shards), config)
    config_hash = manifest.claim(path, "pipelines.embed", identity)
    storage.write_json(storage.join(path, "config.json"), dataclasses.asdict(config))
    wanted = {storage.name(shard.listing) for shard in shards}
    for listing in storage.files(listings, ".parquet"):
        if storage.name(listing) not in wanted:
            storage.remove(listing)
    compaction.finish(path)
    folder = Folder(name, path, config_hash, specs, _number(path, shards), {})
    folder.refresh()
    folder.forget_changed()
    return folder


def open_folders(config: Config, specs: dict[str, EncoderSpec], retry_rejects: bool) -> list[Folder]:
    """Claims the output folders of the memory (every column) and of the labelled splits (keys only).

    Args:
        config: names the sources.
        specs: of each vector column.
        retry_rejects: whether shards with rejects that may be read now are done again.
    """
    queries = {split: (config.queries_dir(split), source) for split, source in config.queries.items()}
    sets = {MEMORY: (config.memory_dir, config.memory), **queries}
    key = {"key": specs["key"]}
    folders = [
        _open_folder(name, path, source, config, specs if name == MEMORY else key)
        for name, (path, source) in sets.items()
        if source.path
    ]
    for folder in folders:
        if retry_rejects:
            folder.retry()
        if folder.pending:
            storage.remove(storage.join(folder.path, manifest.COMPLETE_FILE))
    return folders


def check_rejects(folder: Folder, max_share: float) -> None:
    """Raises a `UserError` with the top reasons if more than `max_share` of the rows were rejected, or none is left.

    What was filtered is no fault of the source, but a folder without a row is of no use either.
    """
    markers = folder.markers
    rejected, total = sum(m.rows_rejected for m in markers), sum(m.rows_in for m in markers)
    if not total:
        raise UserError(f"{folder.path}: its source holds no image; check the source's path")
    kept = sum(m.rows_out for m in markers)
    if kept and rejected <= max_share * total:
        return
    if not kept and not rejected:
        filtered = sum((Counter(m.filtered) for m in markers), Counter())
        raise UserError(
            f"{folder.path}: all {total:,} rows were filtered out ({_top(filtered)}); check --config.filters"
        )
    paths = [storage.join(folder.path, manifest.REJECTS, f"{m.name}.parquet") for m in markers if m.rows_rejected]
    table = pa.concat_tables([schemas.read(path, ["error_type"]) for path in paths])
    limit = f"more than --config.embed.max_rejects_share={max_share}" if kept else "and no row is left"
    raise UserError(
        f"{folder.path}: {rejected:,} of {total:,} rows rejected ({_top(Counter(table['error_type'].to_pylist()))}), "
        f"{limit}; see {storage.join(folder.path, manifest.REJECTS)}"
    )


def _top(counts: Counter[str]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in counts.most_common(3))
