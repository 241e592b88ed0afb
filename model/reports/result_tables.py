"""The tables of `results.json`: accuracies, differences, and how well attention filters."""

from collections.abc import Mapping, Sequence
from typing import Any

from configs.schema.training import SHOTS
from model.measures import metrics
from model.reports.grid import Grid
from model.reports.results import COLUMNS
from pipelines.progress import duration


def percent(figure: Mapping[str, float | None]) -> str:
    """Returns mean and standard deviation of a fraction in percent: `53.4 ± 0.3`, or `-` for none."""
    if figure["mean"] is None:
        return "-"
    return f"{100 * figure['mean']:.1f}" + (f" ± {100 * figure['std']:.1f}" if figure["std"] is not None else "")


def grids(results: Mapping[str, Any], groups: Mapping[str, Sequence[str]] | None = None) -> list[Grid]:
    """Returns all tables of the results.

    Args:
        results: from `results.evaluate`.
        groups: notes that say what the groups are, by convention of `SHOTS`.
    """
    notes = groups or {}
    shown = [_accuracies(results, notes.get(results["shots"], ()))]
    others = [shots for shots in SHOTS if shots != results["shots"]]
    shown += [grid for shots in others if (grid := _other_groups(results, shots, notes.get(shots, ())))]
    references = dict.fromkeys(row["reference"] for row in results["differences"])
    shown += [_differences(results, reference) for reference in references]
    return [*shown, _filter_quality(results["filter"])] if results["filter"] else shown


def over_seeds(seeds: int) -> str:
    """Returns what figures of some seeds are, for a title."""
    return "mean ± standard deviation over seeds" if seeds > 1 else "of one seed"


def _accuracies(results: Mapping[str, Any], groups: Sequence[str]) -> Grid:
    methods, seeds = results["methods"], len({row["seed"] for row in results["rows"]})
    return Grid(
        f"Test accuracy, %, {over_seeds(seeds)}; ECE: expected calibration error",
        ("method", *COLUMNS, "top-5", "ECE", "val", "train"),
        [
            (
                name,
                *(percent(figures[column]) for column in (*COLUMNS, "top5", "ece")),
                f"{100 * results['val'][name]:.1f}" if name in results["val"] else "-",
                duration(figures["train_secs"]["mean"]),
            )
            for name, figures in methods.items()
        ],
        (
            *groups,
            "all: the share of test images that are recognised; a group's accuracy is the mean over its classes",
            "top-5: the true class is among the five most probable; ECE: how far the probability of a prediction is "
            "from the share of predictions that are right, in points, over 15 bins (Guo et al., 2017); lower is better",
            "val: the mean of overall and group accuracies on val, by which settings are chosen, and the head that "
            "predict, export and app use unless another is named",
            "train: the time of one run, without its trials" + (f", mean over {seeds} seeds" if seeds > 1 else ""),
        ),
    )


def _other_groups(results: Mapping[str, Any], shots: str, notes: Sequence[str]) -> Grid | None:
    """Returns the groups by another convention; None if it moves no class."""
    if not (moved := results["moved_classes"][shots]):
        return None
    methods, sizes = results["methods"], results["classes_per_group"]
    columns = [f"{group}_{shots}" for group in metrics.GROUPS]
    theirs, ours = ("/".join(map(str, sizes[one])) for one in (shots, results["shots"]))
    return Grid(
        f"The groups by the {shots} convention, which moves {moved:,} of {sum(sizes[shots]):,} classes: {theirs} "
        f"many-, medium- and few-shot classes instead of {ours}",
        ("method", *metrics.GROUPS),
        [(name, *(percent(figures[column]) for column in columns)) for name, figures in methods.items()],
        tuple(notes),
    )


def _differences(results: Mapping[str, Any], reference: str) -> Grid:
    cells: dict[str, dict[str, str]] = {}
    for row in [row for row in results["differences"] if row["reference"] == reference]:
        difference, low, high = (100 * row[name] for name in ("difference", "low", "high"))
        cells.setdefault(row["method"], {})[row["column"]] = f"{difference:+.1f} [{low:+.1f}, {high:+.1f}]"
    level = results["bootstrap"]["level"]
    return Grid(
        f"Points over {reference}, with {level:.0%} paired bootstrap intervals over test images",
        ("method", *COLUMNS),
        [(name, *(mine.get(column, "-") for column in COLUMNS)) for name, mine in cells.items()],
        (
            f"Above 0: better than {reference}. An interval that holds 0 shows no significant difference. It "
            "covers the choice of test images; the seeds of a head are averaged first.",
        ),
    )


def _filter_quality(found: Mapping[str, Any]) -> Grid:
    def cells(figures: Mapping[str, float | None], names: Sequence[str]) -> tuple[str, ...]:
        return tuple("-" if figures.get(name) is None else f"{figures[name]:.3f}" for name in names)

    columns = ("share", "mass", "mass_over_share", "mass_over_share_per_query", "auc", "auc_pooled")
    lists = found["lists"]
    return Grid(
        f"Relevant neighbours: {lists['share']:.1%} of all, in the lists of "
        f"{lists['queries_with_relevant']:,} of {lists['queries']:,} test images",
        ("weights", "share", "mass", "mass / share", "per query", "AUC", "pooled AUC"),
        [
            (f"the cosine alone, times {lists['scale']:g}", *cells(lists, columns)),
            *((name, *cells(figures, columns)) for name, figures in found["methods"].items()),
        ],
        (
            "A neighbour is relevant if it has the label of the test image's class, or a caption that names it.",
            "mass: the share of the weight that relevant neighbours get; mass / share above 1: attention prefers them. "
            "per query: the mean of that ratio over test images.",
            "AUC: how often a relevant neighbour of an image has more weight than another one, 0.5 by chance; pooled: "
            "over all images at once.",
        ),
    )
