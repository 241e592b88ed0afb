"""The job of `web-memory predict`: photographs to keys by the embedding job, then keys to predictions.

    x.parquet.parts/keys/                  keys, rejects and markers of each shard, as the embed stage writes them
    x.parquet.parts/predictions/           rows of each shard, and its marker in `_done/`
    x.parquet, x.rejects.parquet           what remains

A killed job resumes at the first shard that is not done; the parts are deleted once the output is whole.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.utils.shared import Shared

from configs.base import Embed, Filters, Source
from model.recognition import pictures, rows
from model.recognition.engine import Engine
from model.recognition.memory import KEY
from model.recognition.session import Session
from pipelines import manifest, schemas, sources, storage
from pipelines.embedding import folders, job
from pipelines.embedding.folders import Folder
from pipelines.errors import UserError
from pipelines.runner import Runner
from pipelines.sources import patterns
from pipelines.sources.labels import Labels, LabelSpace, normal
from pipelines.sources.sample import said_passed_over

STAGE = "model.predict"
_KEYS, _PREDICTIONS = "keys", "predictions"
# Photographs whose lists and outputs are in memory at a time.
_AT_ONCE = 1024
_MARKER = {"rows": int, "labelled": int, "right": int, "rows_sha256": str, "keys_sha256": str}
_COLUMNS = ["source_shard", "member", "label", "content_key", KEY]


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What to predict with, and what to write of it; names and numbers only.

    Attributes:
        path: of the workdir or bundle.
        head: that predicts.
        seeds: as of `trained.load`.
        top: number of classes.
        neighbors: rows of the memory that are written for a photograph.
        influence: whether their influence is.
        unsafe_models: as of `source.Source`.
        classes: names that were not trained.
    """

    path: str
    head: str
    seeds: str | int
    top: int
    neighbors: int
    influence: bool
    unsafe_models: bool
    classes: tuple[str, ...] = ()

    def session(self) -> Session:
        """Opens what it names."""
        return Session(self.path, self.head, self.seeds, False, self.unsafe_models)

    def open(self) -> "Opened":
        """Opens it, with the head that knows all classes."""
        session = self.session()
        return Opened(session, session.extended(session.engine(self.head), self.classes))


@dataclasses.dataclass(frozen=True)
class Opened:
    """What a process opens once."""

    session: Session
    engine: Engine


@dataclasses.dataclass(frozen=True)
class Counts:
    """What became of the photographs.

    Attributes:
        rows: that were predicted.
        rejected: that could not be read.
        labelled: of the rows, those whose label is a class of the model.
        right: of these, those whose first class it is.
        unknown: names that label photographs, such as those of folders, and are no class of the model.
        passed_over: files of a folder that are none, in words; empty if there are none.
    """

    rows: int
    rejected: int
    labelled: int
    right: int
    unknown: tuple[str, ...] = ()
    passed_over: str = ""


def source_of(images: str, work: str) -> Source:
    """Returns the source of a folder, or of files that match a pattern, which are listed in a folder of the job.

    Raises:
        UserError: if there are none.
    """
    found = pictures.files(images)
    if not found:
        return Source(format="image_folder", path=images)
    root = _common_folder(found)
    members = [uri if root == "." else uri.removeprefix(root).lstrip("/") for uri in found]
    path = storage.join(work, "photographs.jsonl")
    with storage.atomic_write(path) as file:
        file.writelines(json.dumps({"path": member}).encode() + b"\n" for member in members)
    return Source(format="table", path=patterns.quote(os.path.abspath(path)), image_root=root)


def _common_folder(uris: Sequence[str]) -> str:
    """Returns the innermost folder that all files are in; a `UserError` if they have none in common."""
    scheme = uris[0].partition("://")[0] + "://" if storage.is_url(uris[0]) else ""
    try:
        if any(storage.is_url(uri.removeprefix(scheme)) or not uri.startswith(scheme) for uri in uris):
            raise ValueError("of several stores")
        common = os.path.commonpath([uri.removeprefix(scheme).rpartition("/")[0] or "." for uri in uris])
        if scheme and not common:
            raise ValueError("of several buckets or hosts")
    except ValueError as error:
        raise UserError(f"--images: {uris[0]} and {uris[-1]} share no folder; predict one after the other") from error
    return scheme + common or "."


def run(wanted: Wanted, source: Source, data: str, output: str, work: str, embed: Embed, runner: Runner) -> Counts:
    """Predicts every photograph of a source and writes the output.

    Args:
        wanted: what to predict with.
        source: of the photographs, labelled or not.
        data: folder that its paths are relative to.
        output: file to write.
        work: folder of the parts.
        embed: rows of a shard and addresses; batch size and limits are those of the head.
        runner: of the command.

    Raises:
        UserError: if the source or the model is wrong, or a worker failed.
    """
    session = wanted.session()
    trained, state = session.trained(wanted.head), session.state()
    spec = session.key_spec
    limits = dataclasses.replace(
        trained.embed,
        list_shard_rows=embed.list_shard_rows,
        private_addresses=embed.private_addresses,
        threads=embed.threads,
    )
    identity = {
        "head": manifest.fingerprint([trained.facts, [[s, trained.results[s]] for s in trained.results]]),
        "index": state.index.fingerprint,
        "options": [wanted.head, wanted.top, wanted.neighbors, wanted.influence, *wanted.classes],
    }
    labels = _labels(source, data, limits, (*trained.classes, *wanted.classes))
    folder = folders.open_one(storage.join(work, _KEYS), source, data, limits, {KEY: spec}, labels, identity)
    del session, state
    if folder.pending:
        job.run([folder], {KEY: spec}, limits, Filters(), runner)
    part = Part(folder.path, storage.join(work, _PREDICTIONS), folder.config_hash, wanted)
    names = [marker.name for marker in folder.markers]
    if pending := [marker for marker in folder.markers if not part.is_done(marker.name, marker.output_sha256)]:
        todo = [(marker.name, marker.output_sha256) for marker in pending]

        def build(pipeline: beam.Pipeline) -> None:
            shards = pipeline | "Shards" >> beam.Create(todo) | "Spread" >> beam.Reshuffle()
            _ = shards | "Predict" >> beam.ParDo(PredictShard(part))

        runner.run(build, functools.partial(_measure, part, folder), "loading the model", "classes")
    markers = [part.marker(name) for name in names]
    written = rows.write(output, part.tables(names), {"config_hash": folder.config_hash})
    rejected = _write_rejects(folder, _rejects_path(output))
    storage.remove(work)
    unknown = [name for name in labels.own if normal(name) not in labels.space.numbers] if labels else []
    labelled, right = (sum(marker[name] for marker in markers) for name in ("labelled", "right"))
    return Counts(written, rejected, labelled, right, tuple(unknown), said_passed_over(folder.passed_over))


def _labels(source: Source, data: str, embed: Embed, classes: Sequence[str]) -> Labels | None:
    """Returns how the names of a source's classes become numbers; None if it has no names."""
    sources.check_exists(source, data)
    found = sources.find_names(source, data, embed, is_memory=True)
    if not found or not found.has_labels:
        return None
    space = LabelSpace(tuple(map(normal, classes)))
    return Labels(space, found.names if found.declared else (), found.names, is_memory=True)


def _rejects_path(output: str) -> str:
    return f"{output.rpartition('.')[0]}.rejects.parquet"


def _write_rejects(folder: Folder, path: str) -> int:
    """Writes the photographs that could not be read, if there are any; returns their number."""
    names = [marker.name for marker in folder.markers if marker.rows_rejected]
    paths = [storage.join(folder.path, manifest.REJECTS, f"{name}.parquet") for name in names]
    if paths:
        with schemas.writer(path, schemas.REJECTS, {"config_hash": folder.config_hash}) as parquet:
            for part in paths:
                parquet.write_table(schemas.read(part, schemas.REJECTS.names).cast(parquet.schema))
    return sum(marker.rows_rejected for marker in folder.markers)


def _measure(part: "Part", folder: Folder) -> tuple[float, int]:
    done = {storage.name(path).removesuffix(".json") for path in storage.files(part.done, ".json")}
    counts = [marker.rows_out for marker in folder.markers if marker.name in done]
    return sum(counts) / max(sum(marker.rows_out for marker in folder.markers), 1), sum(counts)


@dataclasses.dataclass(frozen=True)
class Part:
    """Where the predictions of shards go."""

    keys: str
    folder: str
    config_hash: str
    wanted: Wanted

    @property
    def done(self) -> str:
        """Folder of the markers."""
        return storage.join(self.folder, manifest.MARKERS)

    def path(self, shard: str) -> str:
        """Returns the path of a shard's rows."""
        return storage.join(self.folder, f"{shard}.parquet")

    def marker(self, shard: str) -> dict[str, Any]:
        """Returns the marker of a shard; a `UserError` if it is missing or damaged."""
        return schemas.read_json(storage.join(self.done, f"{shard}.json"), _MARKER, "remove it and run predict again")

    def is_done(self, shard: str, keys_sha256: str) -> bool:
        """Tells whether the rows of a shard are written, and are of these keys."""
        there = all(map(storage.exists, (self.path(shard), storage.join(self.done, f"{shard}.json"))))
        return there and self.marker(shard)["keys_sha256"] == keys_sha256

    def tables(self, names: list[str]) -> Iterator[pa.Table]:
        """Yields the rows of all shards in order, a part at a time."""
        for name in names:
            storage.check_sha256(self.path(name), self.marker(name)["rows_sha256"], "remove it and run predict again")
            with schemas.open_parquet(self.path(name), rows.SCHEMA.names) as parquet:
                for batch in parquet.iter_batches(_AT_ONCE):
                    yield pa.Table.from_batches([batch])


class PredictShard(beam.DoFn):
    """Predicts the photographs of shards whose keys are known; a process opens the model once."""

    def __init__(self, part: Part) -> None:
        """Keeps what workers need."""
        self._part, self._shared = part, Shared()

    def start_bundle(self) -> None:
        """Opens the model, unless the process has."""
        self._opened: Opened = self._shared.acquire(self._part.wanted.open)

    def process(self, item: tuple[str, str]) -> None:
        """Writes the rows of a shard, then its marker."""
        (name, keys_sha256), part, counts = item, self._part, [0, 0, 0]
        path = storage.join(part.keys, f"{name}.parquet")
        storage.check_sha256(path, keys_sha256, "remove it and run predict again")
        with schemas.writer(part.path(name), rows.SCHEMA, {"config_hash": part.config_hash}) as parquet:
            with schemas.open_parquet(path, _COLUMNS, {"config_hash": part.config_hash}) as source:
                for batch in source.iter_batches(_AT_ONCE, columns=_COLUMNS):
                    table, labelled, right = self._predict(pa.Table.from_batches([batch]))
                    parquet.write_table(table.replace_schema_metadata(parquet.schema.metadata))
                    counts = [counts[0] + table.num_rows, counts[1] + labelled, counts[2] + right]
        facts = {"rows": counts[0], "labelled": counts[1], "right": counts[2], "keys_sha256": keys_sha256}
        facts["rows_sha256"] = storage.sha256(part.path(name))
        storage.write_json(storage.join(part.done, f"{name}.json"), facts)

    def _predict(self, named: pa.Table) -> tuple[pa.Table, int, int]:
        wanted, engine, state = self._part.wanted, self._opened.engine, self._opened.session.state()
        keys, images = schemas.to_matrix(named[KEY]), schemas.content_keys(named["content_key"])
        lists = engine.look_up(state.index, state.memory, keys, list(images))
        outputs = engine.predict(state.memory, keys, lists, wanted.top)
        influence = engine.influence(state.memory, keys, lists, outputs) if wanted.influence else None
        classes = engine.trained.classes
        table = rows.table(named, classes, state.memory, lists, outputs, influence, wanted.neighbors)
        labels = named["label"].to_numpy(zero_copy_only=False).astype(np.float64)
        known = np.isfinite(labels)
        return table, int(known.sum()), int((labels[known] == outputs.classes[known, 0]).sum())
