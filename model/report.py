"""Shows what the trained heads reach: `python -m model.report --config=configs/demo.py`.

Prints the table of methods, writes `results.json` and `gallery.png` below the workdir. Trains nothing.
"""

import json
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from configs.base import Config
from model.metrics import GROUPS
from pipelines import options, schemas, storage
from pipelines.errors import UserError
from pipelines.manifest import Embeddings, Neighbors
from pipelines.progress import console, duration

COLUMNS = (*GROUPS, "all")
_EXAMPLES, _KEPT, _FILTERED = 5, 5, 3


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
            percents = [100 * result["accuracy"][column] for result in mine]
            spread = statistics.stdev(percents) if len(percents) > 1 else 0.0
            cells.append(f"{statistics.mean(percents):.1f} ± {spread:.1f}")
        secs = statistics.mean(result["train_secs"] for result in mine)
        table.add_row(head, *cells, duration(secs))
    console.print(table)


def _stage_secs(config: Config) -> dict[str, float]:
    notes = [storage.read_json(path) for path in storage.glob(storage.join(config.workdir, "stages", "*.json"))]
    return {note["stage"]: note["secs"] for note in notes}


def write_results(config: Config, results: list[dict[str, Any]], path: str) -> None:
    """Writes the rows behind the table, with the recall of the index and the seconds of each stage."""
    index = storage.read_json(storage.join(config.index_dir, "manifest.json"))
    # A group without test images has no accuracy, and JSON no NaN.
    rows = [
        {
            "method": result["head"],
            "seed": result["seed"],
            **{c: None if np.isnan(result["accuracy"][c]) else result["accuracy"][c] for c in ("all", *GROUPS)},
            "train_secs": result["train_secs"],
        }
        for result in results
    ]
    storage.write_json(
        path,
        {
            "rows": rows,
            "recall_at_k": index["recall"]["mean"],
            "k": config.neighbors.k,
            "images": sum(Embeddings(config.queries_dir(split)).rows for split in config.queries),
            "pairs": Embeddings(config.memory_dir).rows,
            "stage_secs": _stage_secs(config),
        },
    )


def write_gallery(config: Config, folder: str, path: str) -> None:
    """Draws five test images of different classes, chosen by the seed, with what the first `mam` run made of them."""
    from model import datasets, gallery
    from pipelines.decode import decode

    task = datasets.load(config)
    run = storage.join(folder, "mam", f"seed-{config.train.seeds[0]}", "predictions.parquet")
    predictions = schemas.read(run, ["predicted", "attention"])
    attention = schemas.to_matrix(predictions["attention"])
    test = task.splits["test"]
    shuffled = np.random.default_rng(config.seed).permutation(len(test.labels))
    _, first_of_class = np.unique(test.labels[shuffled], return_index=True)
    chosen = shuffled[np.sort(first_of_class)[:_EXAMPLES]]

    lists = Neighbors.open(config.neighbors_dir)
    memory = lists.memory(["source_shard", "member", "caption"])
    queries = Embeddings(config.queries_dir("test"))
    members = [m for shard in queries.shard_rows for m in queries.read(shard, ["member"])["member"].to_pylist()]
    embed = config.embed

    def image(container: str, member: str) -> Any:
        return decode(storage.read_image(container, member, embed.max_image_bytes), embed.max_image_pixels)

    def neighbor(query: int, place: int) -> gallery.Neighbor:
        row = memory.slice(int(test.neighbors[query, place]), 1).to_pylist()[0]
        picture = image(row["source_shard"], row["member"])
        weight, score = float(attention[query, place]), float(test.scores[query, place])
        return gallery.Neighbor(picture, row["caption"] or "", weight, score)

    examples = []
    for query in chosen.tolist():
        places = [place for place in np.argsort(-attention[query], kind="stable").tolist() if test.mask[query, place]]
        examples.append(
            gallery.Example(
                image=image(storage.join(config.data, config.test_set.image_root), members[query]),
                label=task.class_names[test.labels[query]],
                predicted=task.class_names[predictions["predicted"][query].as_py()],
                shots=int(task.class_counts[test.labels[query]]),
                kept=[neighbor(query, place) for place in places[:_KEPT]],
                filtered=[neighbor(query, place) for place in places[-_FILTERED:]],
            )
        )
    picture = gallery.draw(examples, lists.k, "What the memory attention module keeps and filters out")
    with storage.atomic_write(path) as file:
        picture.save(file, format="PNG")


def run(config: Config, _: Sequence[str]) -> None:
    """Prints the table and writes its files.

    Raises:
        UserError: if the runs are not there.
    """
    from model.train import runs_folder

    folder, _hash = runs_folder(config, Neighbors.open(config.neighbors_dir).fingerprint)
    results = _results(config, folder)
    results_path = storage.join(config.workdir, "results.json")
    write_results(config, results, results_path)
    written = [results_path]
    if "mam" in config.train.heads:
        written.append(storage.join(config.workdir, "gallery.png"))
        write_gallery(config, folder, written[-1])
    print_table(results, f"Test accuracy, %, mean ± standard deviation over {len(config.train.seeds)} seeds")
    summary_of = json.loads(storage.open_read(results_path).read())
    secs = summary_of["stage_secs"]
    console.print(f"recall@{summary_of['k']} of the index {summary_of['recall_at_k']:.3f}")
    console.print("time: " + ", ".join(f"{stage} {duration(value)}" for stage, value in secs.items()))
    console.print("wrote " + " and ".join(written))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(run, str(__doc__).splitlines()[0], argv)


if __name__ == "__main__":
    sys.exit(main())
