"""Trains the heads on precomputed neighbour lists: `web-memory train --config=configs/demo.py`.

Each head has the same number of trials, measured on val only; the best setting is then run once for each seed and
measured on test. If the command is interrupted, run it again: it resumes from the last checkpoint.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from configs.base import Config
from configs.schema.data import SPLITS
from model.training import run_files
from pipelines import manifest, options
from pipelines.progress import Stage, counted, duration, summary

if TYPE_CHECKING:
    from model.training.trials import Trial


def run(config: Config) -> None:
    """Runs the trials and seeds that are not done yet.

    Raises:
        UserError: if an earlier stage has not finished, a setting is wrong, or a run diverged.
    """
    from model.data import host_tables, protocol
    from model.measures import metrics, plausibility, repeated
    from model.recognition import trained
    from model.training import trials

    places, train, seed = config.places, config.train, config.seed
    trials.check(places, train)
    with Stage("train", "steps", places.workdir) as stage:
        stage.doing("reading vectors, compiling")
        task = protocol.load(places, config.protocol, config.queries, train)
        task, data, folder = trials.open_runs(places, seed, train, task, SPLITS)
        last = [run_files.of_seed(folder, name, seed) for name in train.heads for seed in train.seeds]
        stage.worked = not all(map(run_files.is_done, last))
        runs_of = trials.lengths(train, task.splits["train"].neighbors.shape[1])
        progress = trials.Progress(stage, sum(runs_of))
        lines, rates, reached, count = {}, [], {}, 0
        for name in train.heads:
            runs = trials.Runs(name, train, seed, task, data, folder, progress)
            tried = runs.trials()
            chosen = runs.choose(tried)
            results = [runs.seed(chosen, seed) for seed in train.seeds]
            trained.keep(folder, name, chosen.point, task, config)
            rates += [result["reading"] for result in results if "reading" in result]
            lines[name] = _line(name, chosen, tried)
            test = sum(result["accuracy"]["all"] for result in results) / len(results)
            reached[name] = plausibility.Reached(chosen.accuracy, test)
            count += len(tried) + len(results)
        counts = task.class_counts
        groups = metrics.shot_groups(counts, train.many_over, train.few_under, train.shots)
        bounds = metrics.shot_bounds(counts, train.many_over, train.few_under)
        fitted = "; thirds by size, since 100 and 20 images leave a group empty" * bounds.fitted
        labels = {split: task.splits[split].labels for split in ("val", "test")}
        doubts = plausibility.warnings(reached, labels["val"], len(labels["test"])) + repeated.warnings(places)
        summary(
            f"train: {counted(count, 'run')} in {duration(stage.secs)}",
            {
                **lines,
                "classes": ", ".join(f"{int((groups == group).sum())} {group}-shot" for group in metrics.GROUPS)
                + fitted,
                **protocol.lost_rows(places),
                **({"warning": "; ".join(doubts)} if doubts else {}),
                **({"memory was read at": host_tables.words(rates)} if rates else {}),
                "output": folder,
            },
        )
        _show_test(config)


def _show_test(config: Config) -> None:
    """Shows how the heads did on test, as `model.evaluate` does in full."""
    from model.reports import results, runs
    from model.reports.grid import Grid
    from model.reports.result_tables import over_seeds, percent

    places, train, seed = config.places, config.train, config.seed
    lists = manifest.Neighbors.open(places.neighbors)
    found = runs.load(run_files.identity(places, seed, train, lists.fingerprint), train, config.finetune, lists)
    over = {
        one["method"]: "{:+.1f} [{:.1f}, {:.1f}]".format(*(100 * one[name] for name in ("difference", "low", "high")))
        for one in results.compare(found, train, seed)
        if (one["reference"], one["column"]) == ("linear", "all")
    }
    rows = [
        (head, *(percent(figures[column]) for column in results.COLUMNS), *([over.get(head, "-")] if over else []))
        for head, figures in results.spread(results.measure(found, train)).items()
    ]
    title = f"Test accuracy, %, {over_seeds(len(train.seeds))}" + "; points over linear, all" * bool(over)
    Grid(title, ("head", *results.COLUMNS, *(["over linear"] if over else [])), rows).show()


def _line(name: str, chosen: "Trial", tried: "list[Trial]") -> str:
    from model.heads import registry
    from model.training import hyperparameters

    said = hyperparameters.words(chosen.point, registry.get(name).trained)
    diverged = sum(trial.diverged for trial in tried)
    note = f", of which {diverged} diverged" if diverged else ""
    return f"{said}{': ' if said else ''}val {chosen.accuracy:.3f}, best of {len(tried)}{note}"


def foresee(config: Config) -> dict[str, str]:
    """Says what would be trained; errors as those of `run` that need no training."""
    from model.training import trials

    return trials.foresee(config.places, config.seed, config.train)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(run, str(__doc__).splitlines()[0], argv, foresee=foresee)


if __name__ == "__main__":
    sys.exit(main())
