"""The console script: `web-memory STAGE --config=FILE [flags]`, the same as `python -m MODULE` of `STAGES`.

Several stages are joined by commas (`train,report`); `run` stands for the whole line. Nothing but the standard library
is imported until a stage is chosen.
"""

import glob
import importlib
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from configs.base import Config

# In the order of the line: the module of each stage, and what it does.
STAGES = {
    "encoders": ("pipelines.encoder_facts", "list what embeds images and texts, or say what one encoder is"),
    "demo_corpus": ("pipelines.demo_corpus", "make the demo's images"),
    "align": ("model.align", "teach two frozen encoders one space"),
    "embed": ("pipelines.embed", "embed the memory and the labelled splits"),
    "leaks": ("pipelines.leaks", "show which memory rows were dropped as copies of val and test images"),
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
}
# What `run` runs, after the demo's corpus or the training of two towers.
_EMBEDDED, _TRAINED = ("embed", "build", "neighbors"), ("train", "report")
_RUN = "run every stage in order, resuming the work that is left"
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
            f"  {'run':{width}}  {_RUN}",
            "",
            "web-memory STAGE --help shows the flags of a stage and every field of the config,",
            "web-memory STAGE --help=GROUP one group of fields; web-memory --version the version.",
        ]
    )


def _stages(names: Sequence[str], argv: Sequence[str]) -> int:
    """Runs stages one after another in this process, up to the first that fails; returns its exit code."""
    for name in names:
        if code := int(importlib.import_module(STAGES[name][0]).main(list(argv))):
            return code
    return 0


def _run(argv: Sequence[str]) -> int:
    """Runs the whole line in two processes: embedding and search with TensorFlow, then training and report with JAX.

    In one process each of the two libraries would take the whole memory of an accelerator.
    """
    from configs.base import DemoConfig, TwoTowerConfig
    from pipelines import fields, options
    from pipelines.errors import UserError

    try:
        config, _, beam = options.parse(argv, f"{_RUN[0].upper()}{_RUN[1:]}.")
        if problems := fields.line_problems(config):
            raise UserError(problems[0])
    except UserError as error:
        return options.failed(str(error))
    # Flags that are not ours are for Beam.
    ours = [arg for arg in argv if arg not in beam]
    corpus = ["demo_corpus"] if isinstance(config, DemoConfig) else []
    towers = ["align"] if isinstance(config, TwoTowerConfig) else []
    code = _stages(corpus, ours) or _stages([*towers, *_EMBEDDED], argv) or _in_new_process(_TRAINED, ours)
    return code or (_predict_new_images(config, ours) if corpus else 0)


def _predict_new_images(config: "Config", argv: Sequence[str]) -> int:
    """Ends a demo with predictions for its images of no list, if it has any, and says where the page is."""
    from configs.schema.data import NEW_IMAGES
    from pipelines import storage
    from pipelines.progress import say

    page = f"the page: {storage.join(config.workdir, 'report.html')}"
    if list(pathlib.Path(config.data, NEW_IMAGES).glob("*.jpg")):
        runs = storage.read_json(storage.join(config.workdir, "results.json"))["runs"]
        images = storage.join(glob.escape(config.data), NEW_IMAGES, "*.jpg")
        flags = [f"--run={runs}", f"--images={images}", *(["--head=mam"] if "mam" in config.train.heads else [])]
        say("images that no list has:")
        if code := _in_new_process(["predict"], [*argv, *flags]):
            return code
    say(page)
    return 0


def _in_new_process(names: Sequence[str], argv: Sequence[str]) -> int:
    try:
        return subprocess.run([sys.executable, __file__, ",".join(names), *argv], check=False).returncode
    except KeyboardInterrupt:
        # The other process was interrupted, too, and has said so.
        return 130


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
    if name == "run":
        return _run(rest)
    names = name.split(",")
    if unknown := [stage for stage in names if stage not in STAGES]:
        from pipelines.errors import nearest

        print(f"error: {unknown[0]}: no such stage; {nearest(unknown[0], [*STAGES, 'run'])}", file=sys.stderr)
        return 2
    return _stages(names, rest)


if __name__ == "__main__":
    sys.exit(main())
