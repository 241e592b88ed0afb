"""The page about data: what became of all rows, what the memory is made of, and how well the index finds it."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from model.reports import charts, tables
from model.reports.charts import Chart
from model.reports.grid import Grid
from model.reports.pages import composition, rows
from model.reports.pages.composition import Alike, Shown
from model.reports.pages.inputs import Inputs
from pipelines import manifest, storage
from pipelines.progress import counted

# Examples of dropped rows of each reason.
_EXAMPLES = 4


def gather(inputs: Inputs) -> dict[str, Any]:
    """Returns what `data.html.j2` shows."""
    found = rows.accounts(inputs.config.places)
    selection = rows.read_selection(inputs.memory.folder)
    index = manifest.read_index(storage.join(inputs.config.places.index, "manifest.json"))
    return {
        "accounts": tables.table(rows.grid(found)),
        "passed_over": [(each.name, dict(sorted(each.embeddings.passed_over.items()))) for each in found],
        "rejects": rows.rejects(found),
        "filtered": rows.filtered(found),
        "totals": sorted(selection["totals"].items()) if selection else None,
        "dropped": _dropped(inputs, selection) if selection else [],
        "memory": composition.gather(inputs),
        "curve": _curve(index),
        "points": tables.table(_points(index)),
        "index": _facts(inputs, index),
        "plans": tables.table(_plans(index)),
    }


def _dropped(inputs: Inputs, selection: Mapping[str, Any]) -> list[Alike]:
    """Returns examples of dropped rows beside the rows that they are copies of."""
    chosen, taken = [], Counter[str]()
    for example in selection["examples"]:
        taken[example["reason"]] += 1
        if taken[example["reason"]] <= _EXAMPLES and example["twin_folder"]:
            chosen.append(example)
    wanted: dict[str, set[int]] = defaultdict(set)
    for example in chosen:
        wanted["memory"].add(example["id"])
        wanted[example["twin_folder"]].add(example["twin_id"])
    shown: dict[str, dict[int, Shown]] = {}
    for folder, ids in wanted.items():
        embeddings = inputs.memory if folder == "memory" else inputs.split(folder)
        shown[folder] = composition.by_id(inputs, folder, embeddings, ids)
    pairs = []
    for example in chosen:
        mine, twin = shown["memory"].get(example["id"]), shown[example["twin_folder"]].get(example["twin_id"])
        if mine and twin:
            pixels = "" if example["pixels"] is None else f", pixels {example['pixels']:.3f}"
            figures = f"{example['reason']}: cosine {example['similarity']:.3f}{pixels}, copy of a row of "
            pairs.append(Alike(figures + example["twin_folder"], (mine, twin)))
    return pairs


def _curve(index: Mapping[str, Any]) -> Chart:
    """Returns the recall of the index against the cost of a query."""
    k, points, point = index["recall"]["k"], index["curve"], index["search"]
    costs = [each["cost"] for each in (*points, point)]
    recalls = [100 * each["recall"][str(k)] for each in (*points, point)]
    about = "Each dot is a setting that was measured; the large one is used, the dashed line is the target."
    x = charts.logarithmic("cost of a query, in compressed keys compared", [max(cost, 1.0) for cost in costs])
    chart = Chart(f"Recall of the {k} nearest rows", about, x, charts.linear("recall, %", [*recalls, 100.0], high=100))
    target = 100 * index["recall"]["target"]
    if target >= chart.y.low:
        chart.add_line(0, [(x.low, target), (x.high, target)], is_reference=True)
    chart.add_line(1, [(max(each["cost"], 1.0), 100 * each["recall"][str(k)]) for each in points])
    for each in points:
        chart.add_dot(1, max(each["cost"], 1.0), 100 * each["recall"][str(k)], f"level {each['level']:g}")
    chart.add_dot(2, max(point["cost"], 1.0), 100 * point["recall"][str(k)], "used", radius=6)
    return chart


def _points(index: Mapping[str, Any]) -> Grid:
    sizes = sorted(map(int, index["search"]["recall"]))
    rates = index["rates"]["curve_queries_per_sec"]
    lines = []
    for number, point in enumerate(index["curve"]):
        is_used = all(point[name] == index["search"][name] for name in ("level", "leaves", "candidates"))
        recalls = (f"{100 * point['recall'][str(size)]:.1f}" for size in sizes)
        rate = f"{rates[number]:,.0f}" if number < len(rates) else "-"
        used = "used" if is_used else ""
        lines.append((f"{point['level']:g}", f"{point['cost']:,.0f}", f"{point['visits']:.1f}", *recalls, rate, used))
    return Grid(
        "Settings of the search",
        ("level", "cost", "shards", *(f"recall@{size}, %" for size in sizes), "queries a second", "choice"),
        lines,
        (
            "level: the share of its nearest rows that each shard is to find; shards: that a query visits",
            "cost: the work of a query, counted in compressed keys compared; a whole key counts as several, and so "
            "does each visit to a shard, so that the cost may be more than the rows that there are",
            f"measured on {counted(index['recall']['queries'], 'query')} of {index['recall']['of']}; speeds are of the "
            "machine that built the index",
        ),
    )


def _facts(inputs: Inputs, index: Mapping[str, Any]) -> list[tuple[str, str]]:
    recall, lists = index["recall"], inputs.lists
    return [
        ("rows", f"{index['rows']:,} in {counted(len(index['shards']), 'shard')} ({index['sharding']})"),
        (
            "recall",
            f"{100 * recall['mean']:.1f} % of the {recall['k']} nearest rows, target {100 * recall['target']:g} %",
        ),
        ("version", f"{index['version']}, {counted(index['tombstones'], 'row')} removed since it was built"),
        (
            "lists",
            f"{counted(inputs.listed, 'neighbour')} for each image; "
            f"rows of the memory in some list: {lists.memory_rows:,}",
        ),
    ]


def _plans(index: Mapping[str, Any]) -> Grid:
    names = ("leaves", "pca_dims", "dims_per_block", "reorder", "sample_rows", "quantizer_rows")
    return Grid(
        "How each shard is searched",
        ("shard", "rows", "searcher", *names),
        [
            (
                shard["path"].rpartition("/")[2],
                f"{shard['rows']:,}",
                shard["searcher"],
                *(str(shard["plan"].get(name, "-")) for name in names),
            )
            for shard in index["shards"]
        ],
        ("leaves: 0 means that all keys are scanned; pca_dims: 0 means that keys keep their width",),
    )
