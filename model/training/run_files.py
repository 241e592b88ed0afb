"""Folders and file names of runs, and which settings decide their bytes. Loads no JAX.

`train_loop` and `trials` write the files, `reports.runs` reads those of finished runs.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from configs.base import Finetune, Places, Train
from pipelines import manifest, storage
from pipelines.errors import UserError

RESULT = "result.json"
PREDICTIONS = "predictions.parquet"
METRICS = "metrics.jsonl"
TRIAL = "trial.json"
CHOSEN = "chosen.json"

# The choice of heads and seeds does not change the bytes of any one run.
_NOT_IDENTITY = ("heads", "seeds")
# The stage of fine-tuned runs. The path of the encoder and the number of processes do not change their bytes.
FINETUNE = "model.finetune"
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
        places: of the runs.
        seed: of the configuration.
        train: the training configuration.
        fingerprint: of the neighbour lists.
    """
    decides = {"neighbors": fingerprint, "seed": seed, "train": settings(train)}
    return Identity(storage.join(places.runs, manifest.fingerprint(decides)[:8]), decides)


def of_seed(folder: str, head: str, seed: int) -> str:
    """Returns the folder of one head and seed."""
    return storage.join(folder, head, f"seed-{seed}")


def is_done(folder: str) -> bool:
    """Whether a run is finished: its result is written last."""
    return storage.exists(storage.join(folder, RESULT))


def chosen(folder: str, head: str, instead: str = "") -> dict[str, Any]:
    """Returns the setting that the trials of a head chose, see `trials.Runs.choose`.

    Args:
        folder: of the runs.
        head: its name.
        instead: an alternative to running `model.train`, for the error.

    Raises:
        UserError: if nothing is chosen yet.
    """
    return read(storage.join(folder, head, CHOSEN), instead)


def read(path: str, instead: str = "") -> dict[str, Any]:
    """Reads a JSON file of a run; arguments and errors as those of `chosen`."""
    if not storage.exists(path):
        raise UserError(f"{path}: does not exist; run web-memory train with this configuration first{instead}")
    return storage.read_json(path)


def finetune_identity(frozen: Identity, seeds: Sequence[int], finetune: Finetune) -> Identity:
    """Returns the identity of the runs of one head with its encoder.

    Args:
        frozen: of the frozen runs.
        seeds: `train.seeds`; trials start from the frozen run of the first.
        finetune: the settings.
    """
    settings = {name: v for name, v in dataclasses.asdict(finetune).items() if name not in _NOT_FINETUNE_IDENTITY}
    decides = {"frozen": manifest.fingerprint(frozen.decides), "first_seed": tuple(seeds[:1]), **settings}
    return Identity(storage.join(frozen.folder, "finetune", finetune.head), decides)


def finished_runs(finetuned: Identity, seeds: Sequence[int]) -> dict[int, str]:
    """Returns the folders of fine-tuned runs by seed; none if they are of other settings or not all done."""
    if manifest.is_claimed_by_another(finetuned.folder, FINETUNE, finetuned.decides):
        return {}
    found = {seed: storage.join(finetuned.folder, f"seed-{seed}") for seed in seeds}
    return found if all(map(is_done, found.values())) else {}
