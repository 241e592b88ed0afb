"""A trained head as it is kept: by training in the folder of its runs, by an export in a bundle.

    {head}/chosen.json                        the best trial, with its accuracy on val
    {head}/recognition.json                   what a prediction needs to know beside arrays
    {head}/prepared.safetensors               what was made of the memory before the first step
    {head}/seed-0/result.json                 accuracies of a seed
    {head}/seed-0/parameters.safetensors      its parameters

What was prepared from the memory stays as the head was trained with it, whatever becomes of the memory.
"""

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from configs.base import Config, Embed, Encoders, Train
from configs.schema.search import KEY as BY_KEY
from model.data import array_files
from model.data.datasets import Task
from model.heads import registry
from model.recognition.memory import KEY
from model.training import hyperparameters, run_files
from pipelines import fields, manifest, schemas, storage
from pipelines.errors import UserError, nearest
from pipelines.manifest import Neighbors
from pipelines.schemas import EncoderInfo

FILE, PREPARED = "recognition.json", "prepared.safetensors"
_AGAIN = "remove it and run web-memory train again"
_SHAPE = {
    **{"head": str, "config_hash": str, "classes": [str], "class_counts": [int], "prepared_sha256": str},
    **{"train": dict, "encoders": dict, "embed": dict, "columns": {str: schemas.shape_of(EncoderInfo)}},
    **{"lists": {"k": int, "exclude_same_image": bool, "fingerprint": str, "index": str}},
}

_MEASURED = {"val_accuracy": {"all": float}, "accuracy": {"all": float}, "ece": float}


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained head with the parameters of some seeds.

    Attributes:
        head: its name.
        train: the settings that it was trained with.
        encoders: the config of the encoders.
        embed: batch size of the encoders and limits of images.
        classes: name of each class.
        class_counts: training images of each class, int64 `[C]`.
        columns: the encoder of each vector column of the memory.
        list_k: length of the neighbour lists, of which the head reads the first `k`.
        k: neighbours that the head reads.
        excludes_same_image: whether memory rows with the photograph's own bytes are left out.
        whitening: of keys, float32 `[D + 1, D]`, if scores are whitened cosines.
        prepared: what the head's `prepare` made; None for nothing.
        memory_ids: of the memory rows that this has an entry for, int64 `[M]`, ascending; None if it has none.
        params: of each seed.
        results: contents of `result.json` of each seed.
        facts: contents of `recognition.json`.
    """

    head: str
    train: Train
    encoders: Encoders
    embed: Embed
    classes: tuple[str, ...]
    class_counts: np.ndarray
    columns: dict[str, EncoderInfo]
    list_k: int
    excludes_same_image: bool
    whitening: np.ndarray | None
    prepared: Any
    memory_ids: np.ndarray | None
    params: dict[int, Any]
    results: dict[int, dict[str, Any]]
    facts: dict[str, Any]

    @property
    def k(self) -> int:
        """Neighbours that the head reads."""
        return self.train.k or self.list_k

    @property
    def reads_memory(self) -> bool:
        """Whether the head reads neighbours."""
        return registry.get(self.head).needs_neighbors


def keep(folder: str, head: str, point: Mapping[str, Any], task: Task, config: Config) -> None:
    """Writes what a prediction needs to know of a head whose runs are finished.

    Args:
        folder: of the runs of all heads.
        head: its name.
        point: the setting that was chosen.
        task: prepared, as it was trained on.
        config: of the command.
    """
    lists = Neighbors.open(config.places.neighbors)
    config_hash = manifest.fingerprint(manifest.read_identity(folder))
    arrays = {"prepared": task.prepared[head]} if head in task.prepared else {}
    if registry.get(head).of_rows:
        arrays["memory_ids"] = task.memory_ids
    train = hyperparameters.with_fields(config.train, dict(point))
    if train.similarity == "whitened" and task.whitening is not None:
        arrays["whitening"] = task.whitening
    place = storage.join(folder, head)
    storage.remove_temporaries(place, deep=False)
    sha256 = array_files.write(storage.join(place, PREPARED), arrays, {"config_hash": config_hash, "head": head})
    facts = {
        "head": head,
        "config_hash": config_hash,
        "classes": list(task.class_names),
        "class_counts": task.class_counts.tolist(),
        "train": run_files.settings(train),
        "encoders": dataclasses.asdict(config.encoders),
        "embed": dataclasses.asdict(config.embed),
        "columns": {column: dataclasses.asdict(info) for column, info in lists.encoders.items()},
        "lists": {
            "k": lists.k,
            "exclude_same_image": lists.identity["exclude_same_image"],
            "fingerprint": lists.fingerprint,
            "index": lists.identity["index"],
            "by": lists.identity.get("by", BY_KEY),
        },
        "prepared_sha256": sha256,
    }
    storage.write_json(storage.join(place, FILE), facts)


def seeds_of(text: str) -> str | int:
    """Returns the value of `--seeds`; a `UserError` if it is none."""
    if text in ("best", "all"):
        return text
    if not text.isdecimal():
        raise UserError(f"--seeds={text}: must be best, all, or the number of a seed")
    return int(text)


def find_runs(folder: str) -> str:
    """Returns the folder of the runs of a workdir, or of those of a training configuration.

    Raises:
        UserError: if there is none with a trained head, or there are several.
    """
    found = [] if not _heads(folder) else [folder]
    runs = storage.join(folder, "runs")
    found += [place for entry in storage.entries(runs) if _heads(place := storage.join(runs, entry.name))]
    if not found:
        raise UserError(f"{folder}: holds no trained head; run web-memory train first, or name a bundle")
    if len(found) > 1:
        names = ", ".join(sorted(found))
        raise UserError(f"{folder}: holds heads of {len(found)} training configurations; name one of {names}")
    return found[0]


def _heads(folder: str) -> list[str]:
    return [head for head in registry.HEADS if storage.exists(storage.join(folder, head, FILE))]


def heads(folder: str) -> tuple[str, ...]:
    """Returns the names of the trained heads of a folder of runs, the best on val first."""
    return tuple(run_files.scores(folder, _heads(folder)))


def load(folder: str, head: str, seeds: str | int = "best") -> Trained:
    """Reads a head.

    Args:
        folder: of the runs of all heads.
        head: its name.
        seeds: `best` on val, `all`, or one seed.

    Raises:
        UserError: if there is no such head or seed, or a file is missing, damaged or of another run.
    """
    if head not in (known := _heads(folder)):
        raise UserError(f"head {head!r}: is not among the trained ones of {folder}; {nearest(head, known)}")
    path = storage.join(folder, head, FILE)
    facts = schemas.read_json(path, _SHAPE, _AGAIN)
    if facts["head"] != head or len(facts["classes"]) != len(facts["class_counts"]) or KEY not in facts["columns"]:
        raise UserError(f"{path}: is of another head; {_AGAIN}")
    if registry.get(head).needs_neighbors and (by := facts["lists"].get("by", BY_KEY)) != BY_KEY:
        raise UserError(
            f"{path}: was trained on lists made with --config.neighbors.by={by}, which are not looked up for new "
            "photographs; train on lists made with --config.neighbors.by=key"
        )
    arrays = array_files.read(storage.join(folder, head, PREPARED), facts["prepared_sha256"], _AGAIN)
    if registry.get(head).of_rows and "memory_ids" not in arrays:
        raise UserError(f"{path}: does not say which rows of the memory the head knows; {_AGAIN}")
    results = _chosen_seeds(_results(folder, head, facts["config_hash"]), seeds, storage.join(folder, head))
    return Trained(
        head=head,
        train=fields.restore(Train, facts["train"], "train."),
        encoders=fields.restore(Encoders, facts["encoders"], "encoders."),
        embed=fields.restore(Embed, facts["embed"], "embed."),
        classes=tuple(facts["classes"]),
        class_counts=np.array(facts["class_counts"], np.int64),
        columns={column: EncoderInfo(**info) for column, info in facts["columns"].items()},
        list_k=facts["lists"]["k"],
        excludes_same_image=facts["lists"]["exclude_same_image"],
        whitening=arrays.get("whitening"),
        prepared=_typed(registry.get(head).prepared, arrays.get("prepared"), path),
        memory_ids=arrays.get("memory_ids"),
        params={seed: _parameters(folder, head, seed, result) for seed, result in results.items()},
        results=results,
        facts=facts,
    )


def _typed(kind: type | None, arrays: Any, path: str) -> Any:
    """Returns what a head prepared in its own type, from nested dicts."""
    if kind is None or arrays is None:
        return None
    wanted = typing.cast(Any, kind)
    if set(arrays) != set(wanted._fields):
        raise UserError(f"{path}: what its head prepared has other fields than {', '.join(wanted._fields)}; {_AGAIN}")
    return kind(**arrays)


def _results(folder: str, head: str, config_hash: str) -> dict[int, dict[str, Any]]:
    """Returns the contents of `result.json` of each finished seed."""
    found = {}
    for entry in storage.entries(storage.join(folder, head)):
        name, dash, seed = entry.name.partition("-")
        place = storage.join(folder, head, entry.name)
        if (name, dash) == ("seed", "-") and seed.isdecimal() and run_files.is_done(place):
            of = {"head": head, "seed": int(seed), "config_hash": config_hash}
            found[int(seed)] = run_files.read_result(place, of)
            if where := schemas.misshapen(found[int(seed)], _MEASURED):
                raise UserError(f"{place}/{run_files.RESULT}: is not that of a seed ({where}); {_AGAIN}")
    return dict(sorted(found.items()))


def _chosen_seeds(results: dict[int, dict[str, Any]], seeds: str | int, place: str) -> dict[int, dict[str, Any]]:
    if not results:
        raise UserError(f"{place}: has no finished seed; run web-memory train again, it resumes")
    if seeds == "all":
        return results
    if seeds == "best":
        seeds = max(results, key=lambda seed: results[seed]["val_accuracy"]["all"])
    if not isinstance(seeds, int) or seeds not in results:
        known: Sequence[object] = ("best", "all", *results)
        raise UserError(
            f"seed {seeds}: is not among the finished ones of {place}; known are {', '.join(map(str, known))}"
        )
    return {seeds: results[seeds]}


def _parameters(folder: str, head: str, seed: int, result: Mapping[str, Any]) -> Any:
    place = run_files.of_seed(folder, head, seed)
    result_path = storage.join(place, run_files.RESULT)
    again = f"remove {result_path} and run web-memory train again, which ends the run from its last checkpoint"
    if not isinstance(sha256 := result.get("parameters_sha256"), str):
        raise UserError(f"{result_path}: names no parameters, it is of an older version; {again}")
    found = array_files.read(storage.join(place, run_files.PARAMETERS), sha256, again)
    return {"head": found.get("head", {}), "objective": found.get("objective", {})}
