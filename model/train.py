"""Trains the heads on precomputed neighbour lists: `python -m model.train --config=configs/demo.py`.

For each head the same number of trials, judged on val only; the best setting is then run once for each seed and
measured on test. Killed at any time, the same command goes on from the last checkpoint.
"""

import sys
from collections.abc import Sequence

from configs.base import Config
from model.training import run_files
from pipelines import options
from pipelines.progress import Stage, duration, summary


def run(config: Config) -> None:
    """Runs the trials and seeds that are not done yet.

    Raises:
        UserError: if an earlier stage has not finished, a setting is wrong, or a run diverged.
    """
    from model.data import host_tables, protocol
    from model.measures import metrics
    from model.training import hyperparameters, trials

    train = config.train
    trials.check(config)
    with Stage("train", "steps", config.workdir) as stage:
        task, data, folder = trials.load(config, ("train", "val", "test"))
        last = [run_files.of_seed(folder, name, seed) for name in train.heads for seed in train.seeds]
        stage.worked = not all(map(run_files.is_done, last))
        progress = trials.Progress(stage, len(train.heads) * (hyperparameters.budget(train) + len(train.seeds)))
        lines, rates = {}, []
        for name in train.heads:
            runs = trials.Runs(name, config, task, data, folder, progress)
            tried = runs.trials()
            chosen = runs.choose(tried)
            results = [runs.seed(chosen, seed) for seed in train.seeds]
            rates += [result["reading"] for result in results if "reading" in result]
            lost = sum(trial.diverged for trial in tried)
            lines[name] = (
                f"{hyperparameters.words(chosen.point)}: val {chosen.value:.3f}, best of {len(tried)}"
                f"{f', of which {lost} diverged' if lost else ''}"
            )
        groups = metrics.shot_groups(task.class_counts, train.many_over, train.few_under, train.shots)
        count = len(train.heads) * (hyperparameters.budget(train) + len(train.seeds))
        summary(
            f"train: {count} runs in {duration(stage.secs)}",
            {
                **lines,
                "classes": ", ".join(f"{int((groups == group).sum())} {group}-shot" for group in metrics.GROUPS),
                **protocol.lost_rows(config),
                **({"memory was read at": host_tables.words(rates)} if rates else {}),
                "output": folder,
            },
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(run, str(__doc__).splitlines()[0], argv)


if __name__ == "__main__":
    sys.exit(main())
