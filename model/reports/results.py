"""Results of the runs of a configuration: accuracies, paired differences, how well attention filters.

`runs` reads the runs; `result_tables`, `gallery` and `pages` show the results.
"""

import itertools
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from configs.base import Finetune, Places, Train
from configs.schema.data import SPLITS
from configs.schema.training import SHOTS
from model.data import class_names
from model.measures import bootstrap, filter_quality, metrics, plausibility, repeated
from model.reports import runs
from model.training import run_files
from pipelines import manifest, storage
from pipelines.manifest import Embeddings, Neighbors
from pipelines.progress import counted, read_note

# The methods that others are compared with: those without a memory, the mean, and the strongest rivals.
REFERENCES = ("linear", "mlp", "lda", "mean_knn", "zero_shot", "knn_vote", "real_linear")
COLUMNS = (*metrics.GROUPS, "all")


def _groups(found: runs.Runs, train: Train, shots: str = "") -> np.ndarray:
    return metrics.shot_groups(found.class_counts, train.many_over, train.few_under, shots or train.shots)


def _sizes(groups: np.ndarray) -> list[int]:
    return [int((groups == group).sum()) for group in metrics.GROUPS]


def measure(found: runs.Runs, train: Train) -> list[dict[str, Any]]:
    """Returns the figures of each run as fractions: `method`, `seed`, the groups, `all`, `top5`, `ece`, `train_secs`.

    The groups are those of `train.shots`; those of the other convention have names such as `many_oltr`. A group without
    test images has None.
    """
    rows, others = [], [shots for shots in SHOTS if shots != train.shots]
    for run in found.runs:
        accuracy = metrics.accuracy(run.predicted, found.labels, _groups(found, train))
        again = {shots: metrics.accuracy(run.predicted, found.labels, _groups(found, train, shots)) for shots in others}
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
    """Returns `mean` and sample standard deviation `std` over the seeds of each method, for each figure.

    None stands for a mean of no values, or a deviation of fewer than two.

    Args:
        rows: with `method`, `seed` and figures.
    """
    result = {}
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        names = [name for name in mine[0] if name not in ("method", "seed")]
        result[method] = {name: _mean_and_std([row[name] for row in mine]) for name in names}
    return result


def _mean_and_std(values: Sequence[float | None]) -> dict[str, float | None]:
    known = [value for value in values if value is not None]
    return {"mean": _mean(values), "std": statistics.stdev(known) if len(known) > 1 else None}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def compare(found: runs.Runs, train: Train, seed: int) -> list[dict[str, Any]]:
    """Returns the difference of each head to each of `REFERENCES`, with 95 % paired bootstrap intervals.

    Returns:
        `method`, `reference`, `column` (`all` or a group), and `difference`, `low`, `high` as fractions.
    """
    heads, groups = found.heads, _groups(found, train)
    right = np.stack([found.right(head) for head in heads])
    drawn = bootstrap.resample(right, found.labels, groups, seed=seed)
    reached = [metrics.mean_right(mine, found.labels, groups) for mine in right]
    result = []
    for base in [heads.index(name) for name in REFERENCES if name in heads]:
        others = [number for number in range(len(heads)) if number != base]
        for number, column in itertools.product(others, [column for column in COLUMNS if column in drawn]):
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


def judge_filter(found: runs.Runs, lists: Neighbors, names: list[str], train: Train) -> dict[str, Any] | None:
    """Returns how well attention and plain similarity find the relevant neighbours of test images.

    Args:
        found: the runs.
        lists: the neighbour lists.
        names: of the classes.
        train: which neighbours were used, and the similarity scale.

    Returns:
        `lists`, see `filter_quality.describe`, and in `methods` for each head with weights the means over seeds of
        `filter_quality.measure`; None if no neighbour is known to be relevant.
    """
    marked = filter_quality.Lists.load(lists, "test", names).first(train.k or lists.k)
    if not marked.relevant.any():
        return None
    methods = {}
    for head in found.heads:
        weights = [run.attention() for run in found.of(head)]
        measured = [filter_quality.measure(w, marked.first(w.shape[1])) for w in weights if w is not None]
        if measured:
            methods[head] = {name: _mean([one[name] for one in measured]) for name in measured[0]}
    return {"lists": filter_quality.describe(marked, train.similarity_scale), "methods": methods}


def doubts(places: Places, found: runs.Runs, lists: Neighbors, train: Train) -> list[str]:
    """Returns signs that labels of val or test are not those of train, or their images not new, a sentence each."""
    reached = {}
    for head in train.heads:
        if _is_chosen(found.folder, head):
            test = float(found.right(head).mean())
            reached[head] = plausibility.Reached(run_files.chosen(found.folder, head)["val_accuracy"], test)
    labels = lists.split("val")["label"].to_numpy()
    return [*plausibility.warnings(reached, labels, len(found.labels)), *repeated.warnings(places)]


def _is_chosen(folder: str, head: str) -> bool:
    return storage.exists(storage.join(folder, head, run_files.CHOSEN))


def evaluate(places: Places, seed: int, train: Train, finetune: Finetune) -> dict[str, Any]:
    """Returns the contents of a file of results (docs/contracts.md).

    Args:
        places: of the runs and of the outputs of earlier stages.
        seed: of the configuration.
        train: the heads, seeds and settings of the runs.
        finetune: settings of fine-tuning.

    Raises:
        UserError: if a run, or the output of an earlier stage, is missing.
    """
    lists = Neighbors.open(places.neighbors)
    frozen = run_files.identity(places, seed, train, lists.fingerprint)
    found = runs.load(frozen, train, finetune, lists)
    rows = measure(found, train)
    index = manifest.read_index(storage.join(places.index, "manifest.json"))
    notes = [read_note(path) for path in storage.files(storage.join(places.workdir, "stages"), ".json")]
    return {
        "runs": found.folder,
        "shots": train.shots,
        "classes_per_group": {shots: _sizes(_groups(found, train, shots)) for shots in SHOTS},
        "moved_classes": {shots: int((_groups(found, train, shots) != _groups(found, train)).sum()) for shots in SHOTS},
        "rows": rows,
        "methods": spread(rows),
        "val": run_files.scores(found.folder, [head for head in found.heads if _is_chosen(found.folder, head)]),
        "differences": compare(found, train, seed),
        "warnings": [*doubts(places, found, lists, train), *_left_out(frozen, train, finetune)],
        "bootstrap": {"resamples": bootstrap.RESAMPLES, "level": bootstrap.LEVEL, "seed": seed},
        "filter": judge_filter(found, lists, class_names.read(places, len(found.class_counts)), train),
        "recall_at_k": index["recall"]["mean"],
        "k": index["recall"]["k"],
        "images": sum(Embeddings(places.queries(split)).rows for split in SPLITS),
        "pairs": Embeddings(places.memory).rows,
        "stage_secs": {note["stage"]: note["secs"] for note in notes},
    }


def _left_out(frozen: run_files.Identity, train: Train, finetune: Finetune) -> list[str]:
    """Returns the sentence for fine-tuned runs that the settings do not name."""
    others = run_files.of_other_settings(run_files.finetune_identity(frozen, train.seeds, finetune))
    return [
        f"{place}: holds fine-tuned runs of other settings, which are left out; repeat the flags of their "
        "web-memory finetune to show them"
        for place in others
    ]


def foresee(places: Places, seed: int, train: Train, finetune: Finetune) -> dict[str, str]:
    """Returns which runs would be measured, in words; arguments and errors as those of `evaluate`."""
    lists = Neighbors.open(places.neighbors)
    frozen = run_files.identity(places, seed, train, lists.fingerprint)
    found = runs.load(frozen, train, finetune, lists)
    heads = {head: counted(len(found.of(head)), "seed") for head in found.heads}
    output = run_files.results_file(frozen, train, finetune)
    return {**heads, "would": f"measure these on {len(found.labels):,} test images", "output": output}


def write(places: Places, seed: int, train: Train, finetune: Finetune) -> tuple[dict[str, Any], str]:
    """Evaluates, writes the results and returns them and the path of their file; see `evaluate`.

    The file is that of these runs, heads and seeds, so that the results of other settings stay. `results.json` in the
    workdir is a copy of the last results written.
    """
    results = evaluate(places, seed, train, finetune)
    frozen = run_files.identity(places, seed, train, Neighbors.open(places.neighbors).fingerprint)
    path = run_files.results_file(frozen, train, finetune)
    storage.write_json(path, results)
    storage.write_json(storage.join(places.workdir, "results.json"), results)
    return results, path
