"""Folders and file names of runs, and which settings decide their bytes. Loads no JAX.

`train_loop` and `trials` write the files, `reports.runs` reads those of finished runs.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from configs.base import Finetune, Places, Train
from model.data import class_names
from pipelines import fields, manifest, schemas, storage
from pipelines.errors import UserError

RESULT = "result.json"
PREDICTIONS = "predictions.parquet"
PARAMETERS = "parameters.safetensors"
METRICS = "metrics.jsonl"
CHECKPOINTS, CHECKPOINT = "checkpoints", "checkpoints.json"
TRIAL = "trial.json"
CHOSEN = "chosen.json"
# What the names of files of results begin with.
RESULTS = "results-"

CHOICE = {"number": int, "point": {str: object}, "val_accuracy": float, "trials": int}
PROPOSAL = {"number": int, "point": {str: object}}
_RESULT = {"head": str, "seed": int, "config_hash": str, "metrics_sha256": str, "train_secs": float}

# The choice of heads and seeds does not change the bytes of any one run.
_NOT_IDENTITY = ("heads", "seeds")
# The stages of the runs of all heads and of fine-tuned runs.
TRAIN, FINETUNE = "model.train", "model.finetune"
# The path of the encoder and the number of processes do not change the bytes of fine-tuned runs.
_NOT_FINETUNE_IDENTITY = ("encoder", "workers")


class Identity(NamedTuple):
    """A folder of runs, and what decides their bytes.

    Attributes:
        folder: of the runs.
        decides: the settings and fingerprints, as JSON values.
    """

    folder: str
    decides: dict[str, Any]


def settings(train: Train) -> dict[str, Any]:
    """Returns the settings that decide the bytes of a run."""
    return {name: value for name, value in dataclasses.asdict(train).items() if name not in _NOT_IDENTITY}


def identity(places: Places, seed: int, train: Train, fingerprint: str) -> Identity:
    """Returns the identity of the runs of one task and one training configuration.

    Args:
        places: of the runs, and of the embedded class names.
        seed: of the configuration.
        train: the training configuration.
        fingerprint: of the neighbour lists.

    Raises:
        UserError: if the file of the embedded class names is damaged.
    """
    decides = {"neighbors": fingerprint, "seed": seed, "train": settings(train)}
    if names := class_names.fingerprint(places.classes):
        decides["names"] = names
    return Identity(storage.join(places.runs, manifest.fingerprint(decides)[:8]), decides)


def config_hash(runs: Identity, stage: str = TRAIN) -> str:
    """Returns the `config_hash` of the files of some runs, as `manifest.claim` does for their stage."""
    return manifest.config_hash(stage, runs.decides)


def results_file(frozen: Identity, train: Train, finetune: Finetune) -> str:
    """Returns the file of the results of some heads and seeds; other heads, seeds or fine-tuning have another one.

    Args:
        frozen: identity of the runs of all heads.
        train: names the heads and seeds.
        finetune: settings of fine-tuning.
    """
    tuned = finetune_identity(frozen, train.seeds, finetune).decides
    decides = {"heads": train.heads, "seeds": train.seeds, "finetune": tuned}
    return storage.join(frozen.folder, f"{RESULTS}{manifest.fingerprint(decides)[:8]}.json")


def of_seed(folder: str, head: str, seed: int) -> str:
    """Returns the folder of one head and seed."""
    return storage.join(folder, head, f"seed-{seed}")


def is_done(folder: str) -> bool:
    """Whether a run is finished: its result is written last."""
    return storage.exists(storage.join(folder, RESULT))


def read_result(folder: str, of: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the result of a finished run.

    Args:
        folder: of the run.
        of: entries that it must have, such as `head` and `seed`.

    Raises:
        UserError: if it is missing or damaged, or of another run.
    """
    path, again = storage.join(folder, RESULT), f"remove {folder} and train again"
    found = read(path, _RESULT, again=again)
    if differs := fields.difference({name: found.get(name) for name in of}, json.loads(json.dumps(dict(of)))):
        raise UserError(f"{path}: is of another run, {differs}; {again}")
    return found


def metrics_until(data: bytes, step: int) -> bytes:
    """Returns the lines of a log up to a step; a line without an end was cut short, and its step is run again."""
    lines = data.splitlines(keepends=True) if step else []
    return b"".join(line for line in lines if line.endswith(b"\n") and _step_of(line) <= step)


def _step_of(line: bytes) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        # A damaged line stays, so that its checkpoint does not find what it expects.
        return 0


def chosen(folder: str, head: str, instead: str = "") -> dict[str, Any]:
    """Returns the setting that the trials of a head chose, see `trials.Runs.choose`.

    Args:
        folder: of the runs.
        head: its name.
        instead: an alternative to running `model.train`, for the error.

    Raises:
        UserError: if nothing is chosen yet.
    """
    return read(storage.join(folder, head, CHOSEN), CHOICE, instead)


def scores(folder: str, heads: Sequence[str]) -> dict[str, float]:
    """Returns what the chosen setting of each head reached on val, the best head first, 0 to 1.

    That is the mean of the overall accuracy and of those of the shot groups (`metrics.balanced`), by which the setting
    was chosen, too; runs of older versions have the overall accuracy alone.

    Args:
        folder: of the runs of all heads, or of a bundle's.
        heads: their names, each with a chosen setting.

    Raises:
        UserError: if nothing is chosen yet for one.
    """
    found = {head: chosen(folder, head) for head in heads}
    reached = {head: float(one.get("val_score", one["val_accuracy"])) for head, one in found.items()}
    return dict(sorted(reached.items(), key=lambda item: -item[1]))


def read(path: str, shape: Mapping[str, Any], instead: str = "", again: str = "") -> dict[str, Any]:
    """Reads a JSON file of a run.

    Args:
        path: of the file.
        shape: entries that it must have.
        instead: an alternative to running `model.train` if it is missing, for the error.
        again: what to do if it is damaged, for the error.

    Raises:
        UserError: if it is missing or damaged.
    """
    if not storage.exists(path):
        raise UserError(f"{path}: does not exist; run web-memory train with this configuration first{instead}")
    return schemas.read_json(path, shape, again or "remove it and run web-memory train again")


def finetune_identity(frozen: Identity, seeds: Sequence[int], finetune: Finetune) -> Identity:
    """Returns the identity of the runs of one head with its encoder.

    Args:
        frozen: of the frozen runs.
        seeds: `train.seeds`; trials start from the frozen run of the first.
        finetune: the settings.
    """
    settings = {name: v for name, v in dataclasses.asdict(finetune).items() if name not in _NOT_FINETUNE_IDENTITY}
    decides = {"frozen": manifest.fingerprint(frozen.decides), "first_seed": tuple(seeds[:1]), **settings}
    name = f"{finetune.head}-{manifest.fingerprint(decides)[:8]}"
    return Identity(storage.join(frozen.folder, "finetune", name), decides)


def of_other_settings(finetuned: Identity) -> list[str]:
    """Returns the folders of fine-tuned runs of the same frozen runs, of which some are done, by other settings."""
    parent, own = finetuned.folder.rpartition("/")[::2]
    others = [storage.join(parent, entry.name) for entry in storage.entries(parent) if entry.name != own]
    return [
        place
        for place in others
        if any(
            entry.name.startswith("seed-") and is_done(storage.join(place, entry.name))
            for entry in storage.entries(place)
        )
    ]


def finished_runs(finetuned: Identity, seeds: Sequence[int]) -> dict[int, str]:
    """Returns the folders of fine-tuned runs by seed; none if they are of other settings or not all done."""
    if manifest.is_claimed_by_another(finetuned.folder, FINETUNE, finetuned.decides):
        return {}
    found = {seed: storage.join(finetuned.folder, f"seed-{seed}") for seed in seeds}
    return found if all(map(is_done, found.values())) else {}
