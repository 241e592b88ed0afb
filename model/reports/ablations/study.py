"""Trains the heads at each value of an ablation, and shows the results as a table and as a plot.

`variations` knows what can be varied; `model.ablate` is the command.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from configs.base import Train
from model.data import class_names, tables
from model.reports import plot
from model.reports.ablations import variations
from model.reports.ablations.base import Base, Point
from model.reports.grid import Grid
from model.reports.result_tables import percent
from model.reports.results import COLUMNS, spread
from model.training import preparation, run_files, trials
from model.training.trials import Progress, Trial
from pipelines import manifest, schemas, storage
from pipelines.errors import UserError
from pipelines.progress import Stage

_POISON = "poison"
_INSTEAD = ", which chooses the settings, or give --sweep"


def _is_varied(head: str) -> bool:
    """Whether a head depends on anything that varies; if not, one point stands for all values.

    `mlp` has the size of the attention, and the bank of `vl_ltr` comes from the lists.
    """
    return head not in ("linear", "lda", "zero_shot", "tip_adapter", "tip_adapter_f")


def _folder(base: Base, vary: str, value: str, made_of: str, head: str, train: Train, chosen: Any) -> str:
    """Claims the folder of one head at one value; its name depends on everything that decides its bytes."""
    names = class_names.fingerprint(base.places.classes)
    identity = {
        "neighbors": base.lists.fingerprint,
        "seed": base.seed,
        "train": run_files.settings(train),
        "exclude_same_image": base.exclude_same_image,
        "vary": vary if _is_varied(head) else "",
        "value": value if _is_varied(head) else "",
        "head": head,
        "chosen": chosen,
        **({"names": names} if names else {}),
        **({"made_of": made_of} if made_of and _is_varied(head) else {}),
    }
    folder = storage.join(base.places.workdir, "ablations", "runs", manifest.fingerprint(identity)[:8])
    manifest.claim(folder, "model.ablate", identity)
    return folder


def _results(
    base: Base, vary: str, value: str, point: Point, chosen: dict[str, Any], progress: Progress
) -> list[dict[str, Any]]:
    """Trains all heads at one value and returns the results of each run."""
    train, rows = base.train, []
    task = preparation.prepare(point.task, point.train)
    data = tables.load(task, train.dtype)
    for head in train.heads:
        of_head = point.train if _is_varied(head) else train
        folder = _folder(base, vary, value, point.made_of, head, of_head, chosen.get(head))
        runs = trials.Runs(head, of_head, base.seed, task, data, folder, progress, fixed=vary)
        if chosen:
            setting = Trial(chosen[head]["number"], chosen[head]["point"], {})
        else:
            setting = runs.choose(runs.trials())
        # What is varied takes the place of what was chosen.
        left = {name: v for name, v in setting.point.items() if name != vary}
        setting = Trial(setting.number, left, setting.result)
        for seed in train.seeds:
            result = runs.seed(setting, seed)
            # A finished run needs no checkpoints, and there are many runs.
            for name in (run_files.CHECKPOINTS, run_files.CHECKPOINT):
                storage.remove(storage.join(run_files.of_seed(folder, head, seed), name))
            accuracy = {column: result["accuracy"].get(column) for column in COLUMNS}
            rows.append({"method": head, "seed": seed, **accuracy, "val": result["val_accuracy"]["all"]})
            if vary == _POISON:
                rows[-1]["classes"] = _of_classes(run_files.of_seed(folder, head, seed))
    return rows


def _of_classes(place: str) -> list[float | None]:
    """Returns the test accuracy of each class in a run, None for a class without test images."""
    table = schemas.read(storage.join(place, run_files.PREDICTIONS), ["label", "predicted"])
    labels = table["label"].to_numpy()
    right = np.bincount(labels, table["predicted"].to_numpy() == labels)
    counts = np.bincount(labels)
    return [float(r / n) if n else None for r, n in zip(right, counts, strict=True)]


def run(base: Base, vary: str, values: Sequence[str], sweep: bool, stage: Stage) -> dict[str, Any]:
    """Trains the remaining runs and returns the contents of the JSON file.

    Args:
        base: the configuration that is varied.
        vary: a name of `variations.VARY`.
        values: to compare; empty for the default ones.
        sweep: whether each value gets trials of its own.
        stage: shows the progress.

    Returns:
        `vary`, `title`, `scale`, `note`, `sweep`, and `points`: `value`, `rows` of the memory, `neighbors` (mean length
        of the lists of test), `made_of` of a value that names a file or folder, `methods` as `results.spread` returns
        them, and the `runs` behind them.

    Raises:
        UserError: if a value makes no sense, or an earlier stage has not run.
    """
    train, variation = base.train, variations.VARY[vary]
    trials.check(base.places, train)
    if train.table != "device":
        raise UserError(f"--config.train.table={train.table}: ablations change the memory; use device")
    values = tuple(values) or variations.default_values(vary, base)
    read = variations.read(base, vary, values)
    frozen = run_files.identity(base.places, base.seed, train, base.lists.fingerprint).folder
    chosen = {} if sweep else {head: run_files.chosen(frozen, head, _INSTEAD) for head in train.heads}
    steps = sum(trials.lengths(train, fixed=vary)) if sweep else len(train.heads) * len(train.seeds) * train.steps
    progress, points = Progress(stage, len(values) * steps), []
    for value, meaning in zip(values, read, strict=True):
        point = variation.point(base, meaning)
        runs = _results(base, vary, value, point, chosen, progress)
        points.append(
            {
                "value": value,
                "rows": point.rows,
                "neighbors": float(point.task.splits["test"].mask.sum(axis=1).mean()),
                "methods": spread([{name: run[name] for name in run if name != "classes"} for run in runs]),
                "runs": runs,
                **({} if point.victim is None else {"victim": point.victim}),
                **({"made_of": point.made_of} if point.made_of else {}),
            }
        )
    about = {"title": variation.title, "scale": variation.scale, "note": variation.note}
    return {"vary": vary, **about, "sweep": sweep, "points": points}


def fingerprint(base: Base, found: dict[str, Any]) -> str:
    """Returns that of what decided the contents of a JSON file."""
    decides = {
        "runs": run_files.config_hash(run_files.identity(base.places, base.seed, base.train, base.lists.fingerprint)),
        "heads": base.train.heads,
        "seeds": base.train.seeds,
        "values": [[point["value"], point.get("made_of", "")] for point in found["points"]],
        "sweep": found["sweep"],
    }
    return manifest.fingerprint(decides)


def grid(found: dict[str, Any]) -> Grid:
    """Returns the table of an ablation: overall and few-shot accuracy of each head at each value.

    Of poison, points that the victim and the other classes, averaged, gained over a memory that is not rewritten.
    """
    heads, points = list(found["points"][0]["methods"]), found["points"]
    clean = next((point for point in points if "victim" not in point), None)
    if found["vary"] == _POISON and clean is not None:
        what, shown = "points gained (victim / other classes)", [_harm(clean, point, heads) for point in points]
    else:
        what = "% (overall / few-shot)"
        shown = [
            [f"{percent(of['all'])} / {percent(of['few'])}" for of in point["methods"].values()] for point in points
        ]
    rows = [
        (point["value"], f"{point['rows']:,}", f"{point['neighbors']:.1f}", *cells)
        for point, cells in zip(points, shown, strict=True)
    ]
    title = f"Test accuracy, {what}, by {found['title']}. {found['note']}".strip()
    return Grid(title, (found["title"], "memory rows", "neighbours listed", *heads), rows)


def _harm(clean: dict[str, Any], point: dict[str, Any], heads: Sequence[str]) -> list[str]:
    """Returns for each head what the victim and the others gained, in points; overall accuracy of the clean memory."""
    if "victim" not in point:
        return [percent(point["methods"][head]["all"]) for head in heads]
    found = []
    for head in heads:
        before, after = (_mean_of_classes(each, head) for each in (clean, point))
        gained, victim = 100 * (after - before), point["victim"]
        others = np.delete(gained, victim)
        found.append(f"{gained[victim]:+.1f} / {np.nanmean(others):+.2f}")
    return found


def _mean_of_classes(point: dict[str, Any], head: str) -> np.ndarray:
    """Returns the accuracy of each class, averaged over seeds, `[C]`; NaN of a class without test images."""
    return np.mean([np.array(run["classes"], float) for run in point["runs"] if run["method"] == head], axis=0)


def _percents(mean: float | None, std: float | None) -> tuple[float | None, float | None]:
    return None if mean is None else 100 * mean, None if std is None else 100 * std


def draw(path: str, found: dict[str, Any]) -> None:
    """Writes the plot of an ablation, see `plot.draw`."""
    points = found["points"]
    panels = {
        name: {head: [_percents(**point["methods"][head][column]) for point in points] for head in points[0]["methods"]}
        for name, column in (("all test images, %", "all"), ("few-shot classes, %", "few"))
        if any(of[column]["mean"] is not None for point in points for of in point["methods"].values())
    }
    values = [point["value"] for point in points]
    plot.draw(path, f"Test accuracy by {found['title']}", found["title"], found["scale"], values, panels)
