"""Plans an embedding job: which encoders, which output folders, which shards of them are still to be done.

What is done to a shard is left to `inference`, the pipeline to `embed_job`.
"""

import concurrent.futures
import dataclasses
import functools
from collections import Counter

import pyarrow as pa

from configs.base import Config, Source
from pipelines import manifest, schemas, sources, storage
from pipelines.encoders import EncoderSpec, resolve
from pipelines.errors import UserError
from pipelines.manifest import Marker
from pipelines.sources import InputShard

_KINDS = {"key": "image", "value_image": "image", "value_text": "text"}
_INPUTS_FILE = "inputs.json"


@dataclasses.dataclass
class Folder:
    """One output folder: the memory or a split."""

    name: str
    path: str
    config_hash: str
    encoders: dict[str, EncoderSpec]
    shards: list[InputShard]
    done: dict[str, Marker]

    @property
    def pending(self) -> list[InputShard]:
        """The shards that are not done."""
        return [shard for shard in self.shards if shard.name not in self.done]

    def forget_changed(self) -> None:
        """Removes the markers of shards whose input is another than when they were embedded."""
        for shard in self.shards:
            marker = self.done.get(shard.name)
            if marker and (marker.size_bytes, marker.etag) != (shard.size_bytes, shard.etag):
                storage.remove(storage.join(self.path, manifest.MARKERS, f"{shard.name}.json"))
                del self.done[shard.name]

    def refresh(self) -> None:
        """Reads the markers that are there now, of outputs that are still there."""
        outputs = {storage.name(path) for path in storage.files(self.path, ".parquet")}
        markers = manifest.read_markers(self.path, self.config_hash, known=self.done)
        self.done = {name: marker for name, marker in markers.items() if f"{name}.parquet" in outputs}


def resolve_encoders(config: Config) -> dict[str, EncoderSpec]:
    """Returns the encoder of each role that the config names.

    Raises:
        UserError: if one is unknown, of the wrong kind, or there is none for keys.
    """
    handles = {
        "key": config.encoders.key,
        "value_image": config.encoders.value_image,
        "value_text": config.encoders.value_text,
    }
    used = {role: handle for role, handle in handles.items() if handle}
    # Building an encoder waits for the network, then takes one core: together they are done sooner.
    with concurrent.futures.ThreadPoolExecutor() as pool:
        resolved = pool.map(functools.partial(resolve, dtype=config.encoders.dtype), used.values())
        specs = dict(zip(used, resolved, strict=True))
    for role, spec in specs.items():
        if spec.kind != _KINDS[role]:
            raise UserError(
                f"--config.encoders.{role}={spec.handle}: is an encoder of {spec.kind}s, not {_KINDS[role]}s"
            )
    if "key" not in specs:
        raise UserError("--config.encoders.key: is empty; every memory needs keys")
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


def check(config: Config) -> None:
    """Raises a `UserError` if a setting of the job makes no sense, before anything is written."""
    embed = config.embed
    for name in ("batch_size", "list_shard_rows", "max_image_bytes", "max_image_pixels"):
        if getattr(embed, name) < 1:
            raise UserError(f"--config.embed.{name}={getattr(embed, name)}: must be at least 1")
    if not 0 <= embed.max_rejects_share <= 1:
        raise UserError(f"--config.embed.max_rejects_share={embed.max_rejects_share}: must be 0 to 1")
    if not config.memory.path:
        raise UserError("--config.memory.path: is empty; name the images of the memory")
    if config.memory.format == "image_list" and config.encoders.value_text:
        raise UserError("--config.memory.format=image_list: has no texts; set --config.encoders.value_text=")


def _open_folder(name: str, path: str, source: Source, config: Config, encoders: dict[str, EncoderSpec]) -> Folder:
    identity = {
        "path": storage.join(config.data, source.path),
        "source": dataclasses.asdict(source),
        "image_root": storage.join(config.data, source.image_root),
        "encoders": {role: dataclasses.asdict(spec.info) for role, spec in encoders.items()},
        "batch_size": config.embed.batch_size,
        "list_shard_rows": config.embed.list_shard_rows,
        "max_image_bytes": config.embed.max_image_bytes,
        "max_image_pixels": config.embed.max_image_pixels,
    }
    shards = sources.plan(source, config.data, config.embed)
    config_hash = manifest.claim(path, "pipelines.embed", identity)
    storage.write_json(storage.join(path, "config.json"), dataclasses.asdict(config))
    storage.remove_temporaries(path)
    folder = Folder(name, path, config_hash, encoders, _number(path, shards), {})
    folder.refresh()
    folder.forget_changed()
    if folder.pending:
        storage.remove(storage.join(path, manifest.COMPLETE_FILE))
    return folder


def open_folders(config: Config, encoders: dict[str, EncoderSpec]) -> list[Folder]:
    """Claims the output folders of the memory (every role) and of the labelled splits (keys only)."""
    queries = {split: (config.queries_dir(split), source) for split, source in config.queries.items()}
    sets = {"memory": (config.memory_dir, config.memory), **queries}
    key = {"key": encoders["key"]}
    return [
        _open_folder(name, path, source, config, encoders if name == "memory" else key)
        for name, (path, source) in sets.items()
        if source.path
    ]


def check_rejects(folder: Folder, max_share: float) -> None:
    """Raises a `UserError` with the top reasons if more than `max_share` of a folder's rows were rejected, or all."""
    markers = [folder.done[shard.name] for shard in folder.shards]
    rejected, total = sum(m.rows_rejected for m in markers), sum(m.rows_in for m in markers)
    if not total:
        raise UserError(f"{folder.path}: its source holds no image; check the source's path")
    if rejected < total and rejected <= max_share * total:
        return
    paths = [storage.join(folder.path, manifest.REJECTS, f"{m.name}.parquet") for m in markers if m.rows_rejected]
    table = pa.concat_tables([schemas.read(path, ["error_type"]) for path in paths])
    top = Counter(table["error_type"].to_pylist()).most_common(3)
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in top)
    limit = f"more than --config.embed.max_rejects_share={max_share}" if rejected < total else "all there are"
    raise UserError(
        f"{folder.path}: {rejected:,} of {total:,} rows rejected ({reasons}), {limit}; "
        f"see {storage.join(folder.path, manifest.REJECTS)}"
    )
