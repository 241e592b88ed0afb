"""Shows what the trained heads reach: `python -m model.report --config=configs/demo.py`.

Prints the table of methods, writes `results.json` and `gallery.png` below the workdir. Trains nothing.
"""

import statistics
import sys
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from configs.base import Config
from model.metrics import GROUPS
from pipelines import options, storage
from pipelines.errors import UserError
from pipelines.manifest import Embeddings, Neighbors
from pipelines.progress import console, duration

COLUMNS = (*GROUPS, "all")


def _results(config: Config, folder: str) -> list[dict[str, Any]]:
    results = []
    for head in config.train.heads:
        for seed in config.train.seeds:
            path = storage.join(folder, head, f"seed-{seed}", "result.json")
            if not storage.exists(path):
                raise UserError(f"{path}: is not there; run model.train with this configuration first")
            results.append(storage.read_json(path))
    return results


def print_table(results: list[dict[str, Any]], title: str) -> None:
    """Prints mean and standard deviation over seeds of each head's test accuracies, in percent."""
    table = Table(title=title, title_justify="left")
    table.add_column("method")
    for column in (*COLUMNS, "train"):
        table.add_column(column, justify="right")
    for head in dict.fromkeys(result["head"] for result in results):
        mine = [result for result in results if result["head"] == head]
        cells = []
        for column in COLUMNS:
            percents = [100 * result["accuracy"][column] for result in mine if column in result["accuracy"]]
            if not percents:
                cells.append("-")
                continue
            spread = statistics.stdev(percents) if len(percents) > 1 else 0.0
            cells.append(f"{statistics.mean(percents):.1f} ± {spread:.1f}")
        secs = statistics.mean(result["train_secs"] for result in mine)
        table.add_row(head, *cells, duration(secs))
    console.print(table)


def _stage_secs(config: Config) -> dict[str, float]:
    notes = [storage.read_json(path) for path in storage.files(storage.join(config.workdir, "stages"), ".json")]
    return {note["stage"]: note["secs"] for note in notes}


def gather(config: Config, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the rows behind the table, with the recall of the index and the seconds of each stage."""
    index = storage.read_json(storage.join(config.index_dir, "manifest.json"))
    # A group without test images has no accuracy.
    rows = [
        {
            "method": result["head"],
            "seed": result["seed"],
            **{column: result["accuracy"].get(column) for column in ("all", *GROUPS)},
            "train_secs": result["train_secs"],
        }
        for result in results
    ]
    return {
        "rows": rows,
        "recall_at_k": index["recall"]["mean"],
        "k": index["recall"]["k"],
        "images": sum(Embeddings(config.queries_dir(split)).rows for split in config.queries),
        "pairs": Embeddings(config.memory_dir).rows,
        "stage_secs": _stage_secs(config),
    }


def run(config: Config, _: Sequence[str]) -> None:
    """Prints the table and writes its files.

    Raises:
        UserError: if the runs are not there.
    """
    from model import gallery
    from model.train import runs_identity

    folder, _identity = runs_identity(config, Neighbors.open(config.neighbors_dir).fingerprint)
    results = _results(config, folder)
    results_path = storage.join(config.workdir, "results.json")
    whole = gather(config, results)
    storage.write_json(results_path, whole)
    written = [results_path]
    if "mam" in config.train.heads:
        written.append(storage.join(config.workdir, "gallery.png"))
        gallery.write(config, folder, written[-1])
    print_table(results, f"Test accuracy, %, mean ± standard deviation over {len(config.train.seeds)} seeds")
    console.print(f"recall@{whole['k']} of the index {whole['recall_at_k']:.3f}")
    console.print("time: " + ", ".join(f"{stage} {duration(secs)}" for stage, secs in whole["stage_secs"].items()))
    console.print("wrote " + " and ".join(written))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(run, str(__doc__).splitlines()[0], argv)


if __name__ == "__main__":
    sys.exit(main())
