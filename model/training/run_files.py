"""Where runs lie and what their files are called; loads no JAX, so that whoever only reads them need not either.

Who writes the files is `train_loop` and `trials`; what is read of finished runs is left to `runs`.
"""

import dataclasses
from typing import Any

from configs.base import Config, Train
from pipelines import manifest, storage
from pipelines.errors import UserError

RESULT = "result.json"
PREDICTIONS = "predictions.parquet"
METRICS = "metrics.jsonl"
TRIAL = "trial.json"
CHOSEN = "chosen.json"

# Which heads and seeds are run does not change the bytes of any one run.
_NOT_IDENTITY = ("heads", "seeds")
# The stage of fine-tuned runs. Where an encoder lies and how many processes decode changes no byte of them.
FINETUNE = "model.finetune"
_NOT_FINETUNE_IDENTITY = ("encoder", "workers")


def settings(train: Train) -> dict[str, Any]:
    """Returns the settings that decide the bytes of a run."""
    return {name: value for name, value in dataclasses.asdict(train).items() if name not in _NOT_IDENTITY}


def identity(config: Config, fingerprint: str) -> tuple[str, dict[str, Any]]:
    """Returns the folder of the runs of one task and one training configuration, and what decides their bytes.

    Args:
        config: the whole configuration.
        fingerprint: of the neighbour lists.
    """
    decides = {"neighbors": fingerprint, "seed": config.seed, "train": settings(config.train)}
    return storage.join(config.runs_dir, manifest.fingerprint(decides)[:8]), decides


def of_seed(folder: str, head: str, seed: int) -> str:
    """Returns the folder of one head and seed."""
    return storage.join(folder, head, f"seed-{seed}")


def is_done(folder: str) -> bool:
    """Whether a run is finished: its result is written last."""
    return storage.exists(storage.join(folder, RESULT))


def chosen(config: Config, fingerprint: str, head: str, instead: str = "") -> dict[str, Any]:
    """Returns what the trials of a head chose, as `trials.Runs.choose` noted it.

    Args:
        config: the whole configuration.
        fingerprint: of the neighbour lists.
        head: its name.
        instead: what else can be done, for the error.

    Raises:
        UserError: if nothing is chosen yet.
    """
    path = storage.join(identity(config, fingerprint)[0], head, CHOSEN)
    if not storage.exists(path):
        raise UserError(f"{path}: is not there; run model.train with this configuration first{instead}")
    return storage.read_json(path)


def finetune_identity(config: Config, fingerprint: str) -> tuple[str, dict[str, Any]]:
    """Returns the folder of the runs of one head with its encoder, and what decides their bytes.

    Args:
        config: the whole configuration.
        fingerprint: of the neighbour lists.
    """
    frozen, decides = identity(config, fingerprint)
    settings = {
        name: v for name, v in dataclasses.asdict(config.finetune).items() if name not in _NOT_FINETUNE_IDENTITY
    }
    # Trials start from the frozen run of the first seed.
    own = {"frozen": manifest.fingerprint(decides), "first_seed": config.train.seeds[:1], **settings}
    return storage.join(frozen, "finetune", config.finetune.head), own


def finished_runs(config: Config, fingerprint: str) -> dict[int, str]:
    """Returns the folders of the runs of all seeds, by seed; none if they are of other settings or not all done."""
    folder, own = finetune_identity(config, fingerprint)
    if manifest.is_claimed_by_another(folder, FINETUNE, own):
        return {}
    found = {seed: storage.join(folder, f"seed-{seed}") for seed in config.train.seeds}
    return found if all(map(is_done, found.values())) else {}
