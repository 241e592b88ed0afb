"""Varies one thing and trains the heads at each value: `python -m model.ablate --config=.. --vary=k[=8,16,32]`.

The setting of each head is the one that `model.train` chose with this configuration, or, with `--sweep`, the best of
the same trials at each value. Figures are of test and choose nothing; who has to choose reads those of val. Killed at
any time, the same command goes on. Writes `ablations/{name}.json` and `.svg` below the workdir.
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from configs.base import Config
from model.reports.grid import Grid
from model.reports.results import COLUMNS, percent, spread
from model.training import run_files
from pipelines import manifest, options, storage
from pipelines.errors import UserError, nearest
from pipelines.progress import Stage, say

if TYPE_CHECKING:
    from model.reports.ablations import Base, Point
    from model.training.trials import Progress, Trial

# Reads nothing of what is varied: one point stands for all.
_UNVARIED = "linear"
_INSTEAD = ", which chooses the settings, or give --sweep"


def parse_vary(text: str) -> tuple[str, tuple[str, ...]]:
    """Splits `name=v1,v2` into the name and its values, which may be none; a `UserError` for an unknown name."""
    from model.reports.ablations import VARY

    name, _, rest = text.partition("=")
    if name not in VARY:
        hint = nearest(name, tuple(VARY)) if name else f"known are {', '.join(VARY)}"
        raise UserError(f"--vary={text}: nothing of this name can be varied; {hint}")
    values = tuple(value.strip() for value in rest.split(",") if value.strip())
    if len(set(values)) < len(values):
        raise UserError(f"--vary={text}: names a value twice")
    return name, values


def _folder(base: "Base", vary: str, value: str, head: str, train: Any, chosen: Any) -> str:
    """Takes the folder of one head at one value, named after all that decides its bytes."""
    identity = {
        "neighbors": base.lists.fingerprint,
        "seed": base.config.seed,
        "train": run_files.settings(train),
        "exclude_same_image": base.config.neighbors.exclude_same_image,
        "vary": "" if head == _UNVARIED else vary,
        "value": "" if head == _UNVARIED else value,
        "head": head,
        "chosen": chosen,
    }
    folder = storage.join(base.config.workdir, "ablations", "runs", manifest.fingerprint(identity)[:8])
    manifest.claim(folder, "model.ablate", identity)
    return folder


def _results(
    base: "Base", vary: str, value: str, point: "Point", chosen: dict[str, Any], progress: "Progress"
) -> list[dict[str, Any]]:
    """Trains all heads at one value and returns what each run reached."""
    from model.data import tables
    from model.training import preparation, trials

    train, rows = base.config.train, []
    task = preparation.prepare(point.task, point.train)
    data = tables.load(task, train.dtype)
    for head in train.heads:
        of_head = train if head == _UNVARIED else point.train
        folder = _folder(base, vary, value, head, of_head, chosen.get(head))
        config = dataclasses.replace(base.config, train=of_head)
        runs = trials.Runs(head, config, task, data, folder, progress)
        if chosen:
            setting: Trial = trials.Trial(chosen[head]["number"], chosen[head]["point"], {})
        else:
            setting = runs.choose(runs.trials())
        if vary in setting.point:
            raise UserError(
                f"--vary={vary}: is an axis of --config.train.space, which would undo it; take it out there"
            )
        for seed in train.seeds:
            result = runs.seed(setting, seed)
            # A run that is done needs none, and there are many runs.
            storage.remove(storage.join(run_files.of_seed(folder, head, seed), "checkpoints"))
            accuracy = {column: result["accuracy"].get(column) for column in COLUMNS}
            rows.append({"method": head, "seed": seed, **accuracy, "val": result["val_accuracy"]["all"]})
    return rows


def ablate(config: Config, vary: str, values: Sequence[str], sweep: bool, stage: Stage) -> dict[str, Any]:
    """Trains what is not done yet and returns what the JSON file holds.

    Args:
        config: the configuration that is varied.
        vary: a name of `ablations.VARY`.
        values: of it; none for its own.
        sweep: whether each value gets trials of its own.
        stage: is told the progress.

    Returns:
        `vary`, `title`, `scale`, `note`, and `points`: `value`, `rows` of the memory, `neighbors` (mean length of the
        lists of test), `methods` as `evaluate.spread` gives them, and the `runs` behind them.

    Raises:
        UserError: if a value makes no sense, or a stage before has not run.
    """
    from model.reports import ablations
    from model.training import hyperparameters, trials

    trials.check(config)
    if config.train.table != "device":
        raise UserError(f"--config.train.table={config.train.table}: ablations change the memory; take device")
    base, variation = ablations.Base(config), ablations.VARY[vary]
    values = tuple(values) or ablations.default_values(vary, base)
    train = config.train
    chosen = (
        {}
        if sweep
        else {head: run_files.chosen(config, base.lists.fingerprint, head, _INSTEAD) for head in train.heads}
    )
    count = len(train.heads) * (len(train.seeds) + (hyperparameters.budget(train) if sweep else 0))
    progress = trials.Progress(stage, len(values) * count)
    points = []
    for value in values:
        point = variation.point(base, value)
        runs = _results(base, vary, value, point, chosen, progress)
        points.append(
            {
                "value": value,
                "rows": point.rows,
                "neighbors": float(point.task.splits["test"].mask.sum(axis=1).mean()),
                "methods": spread(runs),
                "runs": runs,
            }
        )
    return {
        "vary": vary,
        "title": variation.title,
        "scale": variation.scale,
        "note": variation.note,
        "sweep": sweep,
        "points": points,
    }


def grid(found: dict[str, Any]) -> Grid:
    """Returns the table of an ablation: overall and few-shot accuracy of each head at each value."""
    heads = list(found["points"][0]["methods"])
    return Grid(
        f"Test accuracy, % (overall / few-shot), by {found['title']}. {found['note']}".strip(),
        (found["title"], "memory rows", "neighbours", *heads),
        [
            (
                point["value"],
                f"{point['rows']:,}",
                f"{point['neighbors']:.1f}",
                *(f"{percent(of['all'])} / {percent(of['few'])}" for of in point["methods"].values()),
            )
            for point in found["points"]
        ],
    )


def _percents(mean: float | None, std: float | None) -> tuple[float | None, float | None]:
    return None if mean is None else 100 * mean, None if std is None else 100 * std


def _draw(path: str, found: dict[str, Any]) -> None:
    from model.reports import plot

    points = found["points"]
    panels = {
        name: {head: [_percents(**point["methods"][head][column]) for point in points] for head in points[0]["methods"]}
        for name, column in (("all test images, %", "all"), ("few-shot classes, %", "few"))
        if any(of[column]["mean"] is not None for point in points for of in point["methods"].values())
    }
    values = [point["value"] for point in points]
    plot.draw(path, f"Test accuracy by {found['title']}", found["title"], found["scale"], values, panels)


def run(config: Config, vary: str, sweep: bool, markdown: bool) -> None:
    """Trains, prints the table and writes the files.

    Raises:
        UserError: if the flag or the configuration makes no sense, or a stage before has not run.
    """
    from model.reports import plot

    plot.check()
    name, values = parse_vary(vary)
    with Stage("ablate", "steps", config.workdir) as stage:
        found = ablate(config, name, values, sweep, stage)
    written = [storage.join(config.workdir, "ablations", f"{name}.{suffix}") for suffix in ("json", "svg")]
    storage.write_json(written[0], found)
    _draw(written[1], found)
    if markdown:
        print(grid(found).markdown())
    else:
        grid(found).show()
        say("wrote " + " and ".join(written))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(
        run,
        str(__doc__).splitlines()[0],
        argv,
        switches={"sweep": "choose the settings anew at each value", "markdown": "print the table in Markdown"},
        values={"vary": ("", "what is varied, such as k or k=8,16,32")},
    )


if __name__ == "__main__":
    sys.exit(main())
