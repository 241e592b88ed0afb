"""The runs of fine-tuning: trials of the settings on val, and the best one for each seed on test.

`finetune_trainer` has the steps, `train_loop` writes checkpoints and results.
"""

import itertools
from collections.abc import Callable
from typing import Any

from configs.base import Finetune
from model.training import run_files, train_loop
from model.training.finetune_trainer import FinetuneSetting, FinetuneTrainer
from model.training.hyperparameters import Point
from pipelines import storage
from pipelines.progress import Stage


def settings(finetune: Finetune, point: Point) -> list[FinetuneSetting]:
    """Returns the settings to try; weight decay and dropout are those that the frozen trials chose."""
    grid = itertools.product(finetune.learning_rates, finetune.encoder_ratios)
    return [FinetuneSetting(rate, point["weight_decay"], point["dropout"], ratio) for rate, ratio in grid]


class FinetuneRuns:
    """The runs of one head with its encoder, in one folder.

    Attributes:
        count: number of runs, finished ones included. A single setting needs no trial.
    """

    def __init__(
        self, folder: str, tried: list[FinetuneSetting], seeds: tuple[int, ...], finetune: Finetune, stage: Stage
    ) -> None:
        """Runs nothing yet.

        Args:
            folder: of the runs.
            tried: the settings to try.
            seeds: a run each with the best setting; trials have the first.
            finetune: steps and batch size.
            stage: shows the progress.
        """
        self._folder, self._tried, self._seeds, self._finetune, self._stage = folder, tried, seeds, finetune, stage
        self._trials = tried if len(tried) > 1 else []
        self._done, self.count = 0, len(self._trials) + len(seeds)
        self._is_first = True

    def is_done(self) -> bool:
        """Whether the runs of all seeds are finished."""
        return all(run_files.is_done(self._of_seed(seed)) for seed in self._seeds)

    def on_steps(self, steps: int) -> None:
        """Reports the steps of the current run."""
        done = self._done * self._finetune.steps + steps
        share, images = done / (self.count * self._finetune.steps), done * self._finetune.batch_size
        # What a run begins with was done before it was interrupted.
        self._stage.update(share, images, ours=not (self._is_first and steps))
        self._is_first = False

    def run(self, trainer: FinetuneTrainer, config_hash: str) -> tuple[FinetuneSetting, list[dict[str, Any]]]:
        """Runs what is not finished; returns the best setting and the results of all seeds.

        Args:
            trainer: of the head and its encoder; its processes are ended.
            config_hash: of the folder.
        """
        self.on_steps(0)

        def run(folder: str, setting: FinetuneSetting, seed: int, split: str) -> dict[str, Any]:
            self._is_first = True
            result = train_loop.run(trainer, folder, setting, seed, split, config_hash, self.on_steps)
            self._done += 1
            return result

        try:
            best = self._best(run)
            return best, [run(self._of_seed(seed), best, seed, "test") for seed in self._seeds]
        finally:
            trainer.close()

    def _best(self, run: Callable[[str, FinetuneSetting, int, str], dict[str, Any]]) -> FinetuneSetting:
        reached = [
            run(storage.join(self._folder, f"trial-{number}"), setting, self._seeds[0], "val")["accuracy"]["all"]
            for number, setting in enumerate(self._trials)
        ]
        return self._tried[reached.index(max(reached)) if reached else 0]

    def _of_seed(self, seed: int) -> str:
        return storage.join(self._folder, f"seed-{seed}")
