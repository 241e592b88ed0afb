"""The model card of a bundle: what it was made of, how good it is, and what whoever ships it must still say."""

from collections.abc import Mapping
from typing import Any

from index import Index
from model.recognition.trained import Trained
from model.training.run_files import RESULTS
from pipelines import storage
from pipelines.progress import counted

_UNSTATED = "not stated; fill in before you publish"


def text(runs: str, heads: Mapping[str, Trained], index: Index, removed: int, facts: Mapping[str, Any]) -> str:
    """Returns the card as Markdown.

    Args:
        runs: folder of the heads' runs.
        heads: that are exported.
        index: that is exported or referred to.
        removed: removed rows whose keys are still in the files of the index.
        facts: of `bundle.json`.
    """
    first = next(iter(heads.values()))
    config = _read(storage.join(runs, "config.json"))
    lines = [
        "# Model card",
        "",
        f"Made by `web-memory export`, version {facts['versions']['web-memory']}. A classifier of "
        f"{counted(len(first.classes), 'class')} that reads a memory of {counted(index.rows, 'image-text pair')}.",
        "",
        "## Data",
        "",
        *_table(("what", "source"), _sources(config)),
        "",
        f"Training images: {int(first.class_counts.sum()):,}, {int(first.class_counts.min()):,} to "
        f"{int(first.class_counts.max()):,} a class. Neighbour lists: {first.facts['lists']['fingerprint']}. Index: "
        f"{index.fingerprint}, version {index.version}.",
        "",
        "## Filters of the memory",
        "",
        *_table(("field", "value"), [(name, value) for name, value in config.get("filters", {}).items()]),
        "",
        "## Encoders",
        "",
        *_table(
            ("column", "encoder", "fingerprint"),
            [(column, known["handle"], known["info"]["fingerprint"]) for column, known in facts["encoders"].items()],
        ),
        "",
        "## Figures",
        "",
        "Accuracy in percent on the test images of the run.",
        "",
        *_table(("head", "seed", "val", "test", "many", "medium", "few", "calibration error"), _accuracies(heads)),
        "",
        *_intervals(runs, heads),
        "## Licences",
        "",
        *_table(("of", "licence"), [(name, _UNSTATED) for name in ("encoders", "images and texts", "this bundle")]),
        "",
        "## Limits",
        "",
        "Captions come from the web: show them as text only. Probabilities are of the classes above alone, whatever a "
        "photograph shows.",
    ]
    if removed:
        lines += [
            "",
            f"The keys of {removed:,} removed rows are still in the files of the index; no search finds them.",
        ]
    return "\n".join(lines) + "\n"


def _read(path: str) -> dict[str, Any]:
    value = storage.read_json(path) if storage.exists(path) else {}
    return value if isinstance(value, dict) else {}


def _table(names: tuple[str, ...], rows: list[tuple[Any, ...]]) -> list[str]:
    def line(cells: tuple[Any, ...]) -> str:
        return "| " + " | ".join(" ".join(str(cell).split()).replace("|", "\\|") for cell in cells) + " |"

    return [line(names), "|" + "---|" * len(names), *map(line, rows)]


def _sources(config: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    names = ("memory", "train_set", "val_set", "test_set")
    known = {name: config.get(name, {}) for name in names}
    return [(name, f"{of.get('format', '')} {of.get('path', '')}".strip()) for name, of in known.items()]


def _accuracies(heads: Mapping[str, Trained]) -> list[tuple[Any, ...]]:
    rows = []
    for head, of in heads.items():
        for seed, result in of.results.items():
            test = result["accuracy"]
            shown = [f"{100 * test[name]:.1f}" if name in test else "" for name in ("all", "many", "medium", "few")]
            rows.append(
                (head, seed, f"{100 * result['val_accuracy']['all']:.1f}", *shown, f"{100 * result['ece']:.1f}")
            )
    return rows


def _intervals(runs: str, heads: Mapping[str, Trained]) -> list[str]:
    """Returns how far heads differ, with intervals, from the results that have most of these heads."""
    found = [_read(path) for path in storage.files(runs, ".json") if storage.name(path).startswith(RESULTS)]
    results = max(found, key=lambda one: len({*one.get("methods", ())} & {*heads}), default={})
    if not results:
        return ["Run `web-memory evaluate` before an export to have intervals here.", ""]
    level = f"{100 * results['bootstrap']['level']:.0f}"
    rows = [
        (d["method"], d["reference"], f"{100 * d['difference']:.1f} [{100 * d['low']:.1f}, {100 * d['high']:.1f}]")
        for d in results["differences"]
        if d["column"] == "all" and {d["method"], d["reference"]} <= {*heads}
    ]
    return [*_table(("head", "against", f"points, with {level} % interval"), rows), ""] if rows else []
