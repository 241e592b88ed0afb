"""Results, predictions and attention of finished runs, read and checked.

`train_loop` writes them, `results` measures them.
"""

import dataclasses
from typing import Any

import numpy as np

from configs.base import Finetune, Train
from model.training import run_files
from pipelines import manifest, schemas, storage
from pipelines.errors import UserError


@dataclasses.dataclass(frozen=True)
class Run:
    """One head and seed, measured on test.

    Attributes:
        head: its name.
        seed: of the run.
        result: contents of `result.json`.
        classes: the most probable classes, int32 `[N, 5]`, fewer with fewer classes.
        probabilities: of them, float32 `[N, 5]`.
        path: of the predictions.
    """

    head: str
    seed: int
    result: dict[str, Any]
    classes: np.ndarray
    probabilities: np.ndarray
    path: str

    @property
    def predicted(self) -> np.ndarray:
        """The most probable class, `[N]`."""
        return self.classes[:, 0]

    def attention(self) -> np.ndarray | None:
        """Reads the weights of the neighbours, float32 `[N, K]`; None if the head has none."""
        with schemas.open_parquet(self.path, []) as parquet:
            if "attention" not in parquet.schema_arrow.names:
                return None
            return schemas.to_matrix(parquet.read(["attention"])["attention"])


@dataclasses.dataclass(frozen=True)
class Runs:
    """All runs of a configuration.

    Attributes:
        folder: of all runs.
        labels: of the test images, int32 `[N]`.
        class_counts: training images of each class, `[C]`.
        runs: all seeds of the first head, then of the next.
    """

    folder: str
    labels: np.ndarray
    class_counts: np.ndarray
    runs: list[Run]

    @property
    def heads(self) -> list[str]:
        """Names of the heads, in the order of the configuration."""
        return list(dict.fromkeys(run.head for run in self.runs))

    def of(self, head: str) -> list[Run]:
        """Returns the runs of one head."""
        return [run for run in self.runs if run.head == head]

    def right(self, head: str) -> np.ndarray:
        """Returns for each image the share of the head's seeds that predict it correctly, float64 `[N]`."""
        return np.mean([run.predicted == self.labels for run in self.of(head)], axis=0)


def load(frozen: run_files.Identity, train: Train, finetune: Finetune, lists: manifest.Neighbors) -> Runs:
    """Reads the runs of all heads and seeds, and those of fine-tuning if all are finished.

    Args:
        frozen: identity of the runs of all heads.
        train: names the heads and seeds.
        finetune: settings of fine-tuning.
        lists: the neighbour lists that they were trained on.

    Raises:
        UserError: if a run is missing, or has other test images than the lists.
    """
    folder = frozen.folder
    counts = np.bincount(lists.split("train")["label"].to_numpy())
    test = lists.split("test").select(["query_id", "label"])
    found = []
    for head in train.heads:
        for seed in train.seeds:
            place = run_files.of_seed(folder, head, seed)
            found.append(load_run(head, seed, place, test["query_id"].to_numpy(), run_files.config_hash(frozen)))
    finetuned = run_files.finetune_identity(frozen, train.seeds, finetune)
    for seed, place in run_files.finished_runs(finetuned, train.seeds).items():
        config_hash = run_files.config_hash(finetuned, run_files.FINETUNE)
        found.append(load_run(f"{finetune.head} + FT", seed, place, test["query_id"].to_numpy(), config_hash))
    return Runs(folder, test["label"].to_numpy().astype(np.int32), counts, found)


def load_run(head: str, seed: int, place: str, ids: np.ndarray, config_hash: str) -> Run:
    """Reads one run.

    Args:
        head: its name.
        seed: of the run.
        place: its folder.
        ids: of the test images.
        config_hash: of the folder of all runs.

    Raises:
        UserError: if it is missing, damaged or of another run, or has other test images.
    """
    result = run_files.read_result(place, {"head": head, "seed": seed, "config_hash": config_hash})
    path = storage.join(place, run_files.PREDICTIONS)
    storage.check_sha256(path, result.get("predictions_sha256", ""), f"remove {place} and run web-memory train again")
    origin = {"config_hash": config_hash, "head": head, "seed": str(seed)}
    table = schemas.read(path, ["query_id", "top_classes", "probabilities"], origin)
    if not np.array_equal(table["query_id"].to_numpy(), ids):
        raise UserError(
            f"{path}: has other test images than the neighbour lists; remove {place} and run web-memory train"
        )
    classes, probabilities = schemas.to_matrix(table["top_classes"]), schemas.to_matrix(table["probabilities"])
    return Run(head, seed, result, classes, probabilities, path)
