"""Writes a bundle (`bundle`): heads, encoders, index and the memory's rows, copied into one folder."""

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from index import Index
from index.store import versions
from model.recognition import bundle, card, memory, trained
from model.recognition.source import Source
from model.recognition.trained import Trained
from model.training import run_files
from pipelines import manifest, options, schemas, storage
from pipelines.errors import UserError

if TYPE_CHECKING:
    from pipelines.encoders.handles import EncoderSpec

# Of each head, without a seed.
_OF_HEAD = (run_files.CHOSEN, trained.FILE, trained.PREPARED)
_OF_SEED = (run_files.RESULT, run_files.PARAMETERS)
_LIBRARIES = ("flax", "jax", "numpy", "pyarrow", "scann", "tensorflow")


@dataclasses.dataclass(frozen=True)
class Exported:
    """What a bundle holds, for the summary.

    Attributes:
        heads: by name, the seeds.
        rows: of the memory.
        removed: rows whose keys are still in the files of the index.
        size_bytes: of all files.
        left_out: why encoders of texts are not among them.
    """

    heads: dict[str, list[int]]
    rows: int
    removed: int
    size_bytes: int
    left_out: list[str]


def check_output(output: str) -> None:
    """Raises a `UserError` if a folder cannot be written, because it exists or is on another machine."""
    if "://" in output:
        raise UserError(f"--output={output}: must be on this machine's disk; copy the folder from there")
    if os.path.exists(output) and (not os.path.isdir(output) or os.listdir(output)):
        raise UserError(f"--output={output}: exists; name a new folder, or remove it first")


def write(path: str, output: str, heads: Sequence[str], seeds: str | int, reference: bool) -> Exported:
    """Writes a bundle, whole or not at all.

    Args:
        path: workdir, or folder of its runs.
        output: folder that must not exist, or be empty.
        heads: to export; empty for all.
        seeds: of each head: `best` on val, `all`, or one.
        reference: whether index and memory stay where they are.

    Raises:
        UserError: if something is missing or damaged, or the output exists.
    """
    check_output(output)
    source = Source(path)
    chosen = {head: trained.load(source.runs, head, seeds) for head in heads or trained.heads(source.runs)}
    pathlib.Path(output).absolute().parent.mkdir(parents=True, exist_ok=True)
    specs, left_out = _encoders(source, next(iter(chosen.values())))

    def work(index: Index) -> Exported:
        rows, removed = index.rows, sum(len(index.removed(number)) for number in range(len(index.shards)))
        with storage.atomic_folder(output) as folder:
            _copy_heads(source.runs, chosen, folder)
            encoders = _copy_encoders(specs, folder)
            if not reference:
                _copy_index(index, folder)
                _copy_memory(source, index, chosen, folder)
            facts = {
                "encoders": encoders,
                "index": os.path.abspath(source.index) if reference else bundle.INDEX,
                "memory": os.path.abspath(source.memory) if reference else bundle.MEMORY,
                "index_fingerprint": index.fingerprint,
                "versions": _versions(),
            }
            with storage.atomic_write(storage.join(folder, bundle.CARD)) as file:
                file.write(card.text(source.runs, chosen, index, removed, facts).encode())
            bundle.write_manifest(folder, facts)
        size = sum(file.stat().st_size for file in pathlib.Path(output).rglob("*") if file.is_file())
        return Exported({head: list(of.params) for head, of in chosen.items()}, rows, removed, size, left_out)

    return source.in_published(next(iter(chosen.values())), work)


def _copy(source: str, target: str) -> None:
    pathlib.Path(target).parent.mkdir(parents=True, exist_ok=True)
    storage.copy(source, target)


def _copy_heads(runs: str, chosen: dict[str, Trained], folder: str) -> None:
    for head, of in chosen.items():
        places = [storage.join(head, name) for name in _OF_HEAD]
        places += [storage.join(run_files.of_seed("", head, seed), name) for seed in of.params for name in _OF_SEED]
        for place in places:
            _copy(storage.join(runs, place), storage.join(folder, bundle.HEADS, place))


def _encoders(source: Source, of: Trained) -> tuple[dict[str, "EncoderSpec"], list[str]]:
    """Returns the encoder of keys and those of texts, and why one of texts is not exported."""
    found, left_out = {memory.KEY: source.encoder(memory.KEY, of)}, []
    for column in source.text_columns(of):
        try:
            found[column] = source.encoder(column, of)
        except UserError as error:
            # Predictions do without: texts are encoded for a search by text and for new classes.
            left_out.append(str(error))
    return found, left_out


def _copy_encoders(specs: Mapping[str, "EncoderSpec"], folder: str) -> dict[str, dict[str, Any]]:
    """Copies encoders; returns what the manifest says of them."""
    found = {}
    for column, spec in specs.items():
        place = storage.join(folder, bundle.ENCODERS, column)
        pathlib.Path(place).mkdir(parents=True)
        model = _copy_model(spec, place)
        description = {**spec.description, **({"model": model} if model else {})}
        pathlib.Path(place, bundle.ENCODER_FILE).write_text(json.dumps(description, indent=2, sort_keys=True) + "\n")
        found[column] = {
            "handle": spec.handle,
            "kind": spec.kind,
            "compute": spec.compute,
            "unsafe": spec.unsafe,
            "info": dataclasses.asdict(spec.info),
        }
    return found


def _copy_model(spec: "EncoderSpec", place: str) -> str:
    """Copies the files of a model; returns the name of its file, empty for a SavedModel folder."""
    from pipelines.encoders import model_files
    from pipelines.encoders.onnx import files as onnx_files

    if onnx_files.is_onnx(spec.model):
        path = onnx_files.local(spec.model, spec.description)
        for file in onnx_files.paths(path, spec.description):
            _copy(str(file), storage.join(place, file.relative_to(path.parent).as_posix()))
        return path.name
    shutil.copytree(model_files.local_folder(spec.model, spec.description), place, dirs_exist_ok=True)
    return ""


def _copy_index(index: Index, folder: str) -> None:
    claims = [f"builds/{build}/{manifest.STAGE_FILE}" for build in versions.builds_of(index.facts)]
    for place in (manifest.STAGE_FILE, *claims, *versions.files_of(index.facts)):
        _copy(storage.join(index.folder, place), storage.join(folder, bundle.INDEX, place))
    # The version that was opened, whatever has been published since.
    storage.write_json(storage.join(folder, bundle.INDEX, "manifest.json"), _facts_of(index), sealed=False)


def _facts_of(index: Index) -> dict[str, Any]:
    return {**index.facts, "rates": storage.seal(index.facts["rates"])}


def _copy_memory(source: Source, index: Index, chosen: dict[str, Trained], folder: str) -> None:
    """Copies the columns that heads and people read, of the rows that the index can find."""
    kinds = list(dict.fromkeys(kind for of in chosen.values() for kind in of.train.values))
    names, rows = memory.columns(kinds), 0
    for number, table in enumerate(source.tables(index, names)):
        path = storage.join(folder, bundle.MEMORY, f"{number:05d}.parquet")
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        schemas.write(path, table.select(names), {"index": index.fingerprint})
        rows += table.num_rows
    if rows != index.rows:
        raise UserError(
            f"{source.memory}: has {rows:,} rows of the {index.rows:,} that the index finds; run web-memory reindex"
        )


def _versions() -> dict[str, str]:
    found = {"web-memory": options.version()}
    for library in _LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
