"""The console script: `web-memory STAGE --config=FILE [flags]`, the same as `python -m MODULE` of `STAGES`.

Several stages are joined by commas (`train,report`). Nothing but the standard library is imported until a stage is
chosen.
"""

import importlib
import sys
from collections.abc import Sequence

# In the order of the line: the module of each stage, and what it does.
STAGES = {
    "init": ("workflow.init", "look at your images and write a config for them"),
    "encoders": ("pipelines.encoder_facts", "list what embeds images and texts, or say what one encoder is"),
    "demo_corpus": ("pipelines.demo_corpus", "make the demo's images"),
    "align": ("model.align", "teach two frozen encoders one space"),
    "embed": ("pipelines.embed", "embed the memory and the labelled splits"),
    "leaks": ("pipelines.leaks", "show which memory rows were dropped as copies of val and test images"),
    "concepts": ("pipelines.concepts", "find which classes the memory's captions name"),
    "plan": ("index.plan", "say what the index will take, before any work"),
    "build": ("index.build", "build the index, tune it, and measure its recall"),
    "neighbors": ("index.neighbors", "look up the neighbour lists of all queries"),
    "search": ("index.search", "show what the memory has nearest to an image, a text or a row"),
    "reindex": ("index.reindex", "update memory and index after sources change or rows are removed"),
    "sweep": ("model.sweep", "run the trials of every head on val and show them"),
    "train": ("model.train", "train every head on precomputed neighbour lists"),
    "finetune": ("model.finetune", "train the query encoder together with a head"),
    "evaluate": ("model.evaluate", "compare the trained heads"),
    "ablate": ("model.ablate", "vary one thing and train the heads at each value"),
    "export": ("model.export", "write a trained model as one folder that opens anywhere"),
    "predict": ("model.predict", "predict the classes of photographs"),
    "app": ("model.app", "serve predictions: a page and JSON, on this machine"),
    "report": ("model.report", "write the tables, the gallery and the report page"),
    "check": ("workflow.check", "say what stands in the way and what to expect, before any work"),
    "arrays": ("workflow.arrays", "write vectors and neighbour lists for other tools, as .npy and Parquet"),
    "run": ("workflow.run", "run every stage in order, resuming the work that is left"),
}
_USAGE = "usage: web-memory STAGE --config=FILE [--config.FIELD=VALUE ..] [flags]"


def _help() -> str:
    width = max(map(len, STAGES))
    stages = [f"  {name:{width}}  {text}" for name, (_, text) in STAGES.items()]
    return "\n".join(
        [
            _USAGE,
            "",
            "stages, in the order of the line:",
            *stages,
            "",
            "web-memory STAGE --help shows the flags of a stage and every field of the config,",
            "web-memory STAGE --help=GROUP one group of fields; web-memory --version the version.",
        ]
    )


def run_stages(names: Sequence[str], argv: Sequence[str]) -> int:
    """Runs stages one after another in this process, up to the first that fails; returns its exit code."""
    for name in names:
        if code := int(importlib.import_module(STAGES[name][0]).main(list(argv))):
            return code
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one stage, or several joined by commas, and returns the exit code."""
    name, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("--help", "-h"):
        print(_help())
        return 0
    if name == "--version":
        from pipelines.options import version

        print(f"web-memory {version()}")
        return 0
    names = name.split(",")
    if unknown := [stage for stage in names if stage not in STAGES]:
        from pipelines.errors import nearest

        print(f"error: {unknown[0]}: no such stage; {nearest(unknown[0], list(STAGES))}", file=sys.stderr)
        return 2
    return run_stages(names, rest)


if __name__ == "__main__":
    sys.exit(main())
