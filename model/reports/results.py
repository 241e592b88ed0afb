"""What the runs of a configuration reach: accuracies, paired differences, how well attention filters; and as tables.

Reading runs is left to `runs`, pictures and pages to `gallery` and `report_page`.
"""

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from configs.base import Config
from configs.schema.training import SHOTS
from model.data import datasets
from model.measures import bootstrap, filter_quality, metrics
from model.reports import runs
from model.reports.grid import Grid
from pipelines import storage
from pipelines.manifest import Embeddings, Neighbors
from pipelines.progress import duration

REFERENCES = ("linear", "mlp", "mean_knn")
COLUMNS = (*metrics.GROUPS, "all")


def _groups(found: runs.Runs, config: Config, shots: str = "") -> np.ndarray:
    train = config.train
    return metrics.shot_groups(found.class_counts, train.many_over, train.few_under, shots or train.shots)


def _others(config: Config) -> tuple[str, ...]:
    return tuple(shots for shots in SHOTS if shots != config.train.shots)


def measure(found: runs.Runs, config: Config) -> list[dict[str, Any]]:
    """Returns what each run reaches, as fractions: `method`, `seed`, the groups, `all`, `top5`, `ece`, `train_secs`.

    The groups are those of `train.shots`, and, under names such as `many_oltr`, those of the other convention. A group
    without test images has None.
    """
    rows, others = [], _others(config)
    for run in found.runs:
        accuracy = metrics.accuracy(run.predicted, found.labels, _groups(found, config))
        again = {
            shots: metrics.accuracy(run.predicted, found.labels, _groups(found, config, shots)) for shots in others
        }
        rows.append(
            {
                "method": run.head,
                "seed": run.seed,
                **{column: accuracy.get(column) for column in COLUMNS},
                **{f"{group}_{shots}": one.get(group) for shots, one in again.items() for group in metrics.GROUPS},
                "top5": metrics.top_accuracy(run.classes, found.labels),
                "ece": metrics.calibration_error(run.probabilities[:, 0], run.predicted == found.labels),
                "train_secs": run.result["train_secs"],
            }
        )
    return rows


def spread(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, float | None]]]:
    """Returns `mean` and sample standard deviation `std` over seeds of each figure of each method; None for no value.

    Args:
        rows: with `method`, `seed` and figures.
    """
    result: dict[str, dict[str, dict[str, float | None]]] = {}
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        result[method] = {}
        for name in [name for name in mine[0] if name not in ("method", "seed")]:
            values = [row[name] for row in mine if row[name] is not None]
            result[method][name] = {
                "mean": statistics.mean(values) if values else None,
                "std": statistics.stdev(values) if len(values) > 1 else None,
            }
    return result


def compare(found: runs.Runs, config: Config) -> list[dict[str, Any]]:
    """Returns how much better each head is than each of `REFERENCES`, with 95 % paired bootstrap intervals.

    Returns:
        `method`, `reference`, `column` (`all` or a group), and `difference`, `low`, `high` as fractions.
    """
    heads, groups = found.heads, _groups(found, config)
    right = np.stack([found.right(head) for head in heads])
    drawn = bootstrap.resample(right, found.labels, groups, seed=config.seed)
    reached = [metrics.mean_right(mine, found.labels, groups) for mine in right]
    result = []
    for base in [heads.index(name) for name in REFERENCES if name in heads]:
        for number in [number for number in range(len(heads)) if number != base]:
            for column in [column for column in COLUMNS if column in drawn]:
                low, high = bootstrap.interval(drawn[column][:, number] - drawn[column][:, base])
                result.append(
                    {
                        "method": heads[number],
                        "reference": heads[base],
                        "column": column,
                        "difference": reached[number][column] - reached[base][column],
                        "low": low,
                        "high": high,
                    }
                )
    return result


def judge_filter(found: runs.Runs, lists: Neighbors, config: Config) -> dict[str, Any] | None:
    """Returns how well attention and plain similarity find the relevant neighbours of test images.

    Returns:
        `lists`, see `filter_quality.describe`, and for each head with attention in `methods` the means over seeds of
        `filter_quality.measure`; None if no neighbour is known to be relevant.
    """
    marked = filter_quality.Lists.load(lists, "test", datasets.read_class_names(config, len(found.class_counts)))
    marked = marked.first(config.train.k or lists.k)
    if not marked.relevant.any():
        return None
    methods = {}
    for head in found.heads:
        weights = [run.attention() for run in found.of(head)]
        measured = [filter_quality.measure(w, marked.first(w.shape[1])) for w in weights if w is not None]
        if measured:
            methods[head] = {name: _mean([one[name] for one in measured]) for name in measured[0]}
    return {"lists": filter_quality.describe(marked, config.train.similarity_scale), "methods": methods}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def evaluate(config: Config) -> dict[str, Any]:
    """Returns all that `results.json` holds (docs/contracts.md).

    Raises:
        UserError: if a run or a stage before is not there.
    """
    lists = Neighbors.open(config.neighbors_dir)
    found = runs.load(config, lists)
    rows = measure(found, config)
    index = storage.read_json(storage.join(config.index_dir, "manifest.json"))
    notes = [storage.read_json(path) for path in storage.files(storage.join(config.workdir, "stages"), ".json")]
    return {
        "runs": found.folder,
        "shots": config.train.shots,
        "rows": rows,
        "methods": spread(rows),
        "differences": compare(found, config),
        "bootstrap": {"resamples": bootstrap.RESAMPLES, "level": bootstrap.LEVEL, "seed": config.seed},
        "filter": judge_filter(found, lists, config),
        "recall_at_k": index["recall"]["mean"],
        "k": index["recall"]["k"],
        "images": sum(Embeddings(config.queries_dir(split)).rows for split in config.queries),
        "pairs": Embeddings(config.memory_dir).rows,
        "stage_secs": {note["stage"]: note["secs"] for note in notes},
    }


def percent(figure: dict[str, float | None]) -> str:
    """Returns mean and standard deviation of a fraction as percents: `53.4 ± 0.3`, or `-` for none."""
    if figure["mean"] is None:
        return "-"
    return f"{100 * figure['mean']:.1f}" + (f" ± {100 * figure['std']:.1f}" if figure["std"] is not None else "")


def grids(results: dict[str, Any]) -> list[Grid]:
    """Returns the tables that the results are shown in: accuracies, differences and the filter's quality."""
    methods = results["methods"]
    shown = [
        Grid(
            "Test accuracy, %, mean ± standard deviation over seeds; ECE: expected calibration error",
            ("method", *COLUMNS, "top-5", "ECE", "train"),
            [
                (
                    name,
                    *(percent(figures[column]) for column in (*COLUMNS, "top5", "ece")),
                    duration(figures["train_secs"]["mean"]),
                )
                for name, figures in methods.items()
            ],
        )
    ]
    for shots in [shots for shots in SHOTS if shots != results["shots"]]:
        columns = [f"{group}_{shots}" for group in metrics.GROUPS]
        pairs = list(zip(columns, metrics.GROUPS, strict=True))
        if any(figures[column] != figures[group] for figures in methods.values() for column, group in pairs):
            rows = [(name, *(percent(figures[column]) for column in columns)) for name, figures in methods.items()]
            shown.append(Grid(f"The groups by the {shots} convention", ("method", *metrics.GROUPS), rows))
    level = results["bootstrap"]["level"]
    for reference in dict.fromkeys(row["reference"] for row in results["differences"]):
        cells: dict[str, dict[str, str]] = {}
        for row in [row for row in results["differences"] if row["reference"] == reference]:
            difference, low, high = (100 * row[name] for name in ("difference", "low", "high"))
            cells.setdefault(row["method"], {})[row["column"]] = f"{difference:+.1f} [{low:+.1f}, {high:+.1f}]"
        shown.append(
            Grid(
                f"Points over {reference}, with {level:.0%} paired bootstrap intervals over test images",
                ("method", *COLUMNS),
                [(name, *(mine.get(column, "-") for column in COLUMNS)) for name, mine in cells.items()],
            )
        )
    if results["filter"]:
        shown.append(_filter_grid(results["filter"]))
    return shown


def _filter_grid(found: dict[str, Any]) -> Grid:
    def cells(figures: dict[str, float | None], names: Sequence[str]) -> tuple[str, ...]:
        return tuple("-" if figures.get(name) is None else f"{figures[name]:.3f}" for name in names)

    columns = ("share", "mass", "mass_over_share", "mass_over_share_per_query", "auc", "auc_pooled")
    lists = found["lists"]
    return Grid(
        f"What is relevant among the neighbours: {lists['share']:.1%} of them, in the lists of "
        f"{lists['queries_with_relevant']:,} of {lists['queries']:,} test images",
        ("weights", "share", "mass", "mass / share", "per query", "AUC", "pooled AUC"),
        [
            (f"the cosine alone, times {lists['scale']:g}", *cells(lists, columns)),
            *((name, *cells(figures, columns)) for name, figures in found["methods"].items()),
        ],
    )


def write(config: Config) -> tuple[dict[str, Any], str]:
    """Evaluates, writes `results.json` and returns the results and its path."""
    results, path = evaluate(config), storage.join(config.workdir, "results.json")
    storage.write_json(path, results)
    return results, path
