"""Predicts the classes of photographs: `web-memory predict --config=.. --images=PATTERN [--output=FILE] [--runner=..]`.

    web-memory predict --config=configs/demo.py --images=a.jpg                     # a table of up to ten
    web-memory predict --config=configs/demo.py --images='photos/*.jpg' --output=found.parquet
    web-memory predict --model=bundle --images=photos --output=found.csv           # a folder; a bundle needs no config
    web-memory predict --model=bundle --config.predict_set.format=img2dataset --config.predict_set.path='x/*.tar' ..

The output is Parquet, CSV or JSON Lines by its suffix, with a table of rejects beside it. Flags that are not ours go to
Beam. If the command is interrupted, run it again: it resumes. Where photographs have labels, it prints the accuracy.
"""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from configs.base import Config
from pipelines import class_names, options, progress, storage
from pipelines.errors import UserError
from pipelines.progress import counted, duration, summary
from pipelines.runner import Runner

if TYPE_CHECKING:
    from model.recognition.predict_job import Counts

# Photographs that are shown as a table.
_MOST_SHOWN = 10
_NEAR = "neighbour of the image"
_VALUES: dict[str, tuple[Any, str]] = {
    "images": ("", "files by pattern, or a folder; otherwise the source --config.predict_set"),
    "output": ("", "file to write: .parquet, .csv or .jsonl; without one a table of up to 10 photographs is shown"),
    "run": ("", "workdir, or a folder of its runs (the config's workdir)"),
    "model": ("", "bundle to use instead of a workdir"),
    "head": ("", "head that predicts (the best on val)"),
    "seeds": ("best", "seed of the head: best on val, all, which are averaged, or a number (best)"),
    "top": (5, "number of classes to name (5)"),
    "classes": ("", "file of more class names, one a line, that mam_names and zero_shot take without training"),
    "neighbors": (10, "memory rows to write for each photograph, those with the largest weights (10)"),
}
_SWITCHES = {
    "influence": "also say what the prediction would lose without each neighbour",
    "unsafe_models": "load encoders of a bundle that reach files, sockets, processes or Python",
}


def run(config: Config, runner: Runner, **flags: Any) -> None:
    """Predicts, and writes or shows what was found.

    Raises:
        UserError: if a flag is wrong, nothing is trained, or the photographs cannot be found or read.
    """
    # Before JAX is imported, which sets a level of its own.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    path = _checked(config, flags)
    if flags["output"]:
        _write(config, runner, path, flags)
    else:
        _show(path, flags)


def _checked(config: Config, flags: dict[str, Any]) -> str:
    """Returns the workdir or bundle of a command line; a `UserError` if flags exclude each other."""
    if flags["top"] < 1 or flags["neighbors"] < 0:
        raise UserError("--top must be at least 1, --neighbors at least 0")
    if flags["model"] and flags["run"]:
        raise UserError("give --model=BUNDLE or --run=WORKDIR, not both")
    if bool(flags["images"]) == bool(config.predict_set.path):
        raise UserError("give --images=PATTERN, or a source by --config.predict_set.path")
    return str(flags["model"] or flags["run"] or config.workdir)


def foresee(config: Config, **flags: Any) -> dict[str, str]:
    """Says what would be predicted; errors as those of `run` before anything is loaded."""
    from model.recognition import pictures, rows, trained
    from model.recognition.source import Source

    path, images, output = _checked(config, flags), flags["images"], flags["output"]
    if output:
        rows.check(output)
    runs = Source(path, unsafe_models=flags["unsafe_models"]).runs
    named = f"{config.predict_set.path} ({config.predict_set.format})"
    if images:
        found = pictures.files(images)
        named = counted(len(found), "photograph") if found else f"the folder {images}"
    return {
        "would": f"predict {named} with {flags['head'] or trained.heads(runs)[0]} of {path}",
        "output": output or f"a table of up to {_MOST_SHOWN}",
    }


def _show(path: str, flags: dict[str, Any]) -> None:
    from model.recognition import pictures, trained
    from model.recognizer import Recognizer

    images = flags["images"]
    found = pictures.files(images) if images else []
    if not 0 < len(found) <= _MOST_SHOWN:
        raise UserError(
            f"--output is missing: only up to {_MOST_SHOWN} files that --images names are shown as a table, no folder"
        )
    opened = Recognizer.open(
        path, head=flags["head"], seeds=trained.seeds_of(flags["seeds"]), unsafe_models=flags["unsafe_models"]
    )
    with opened:
        recognizer = opened.with_classes(_names(flags["classes"])) if flags["classes"] else opened
        predictions = recognizer.predict(found, top=flags["top"], influence=flags["influence"])
        lines = []
        for uri, of in zip(found, predictions, strict=True):
            for place, (name, probability) in enumerate(zip(of.classes, of.probabilities, strict=True)):
                near = of.neighbors[place].caption if place < len(of.neighbors) else ""
                lines.append(("" if place else storage.name(uri), name, f"{probability:.3f}", near))
        title = f"{recognizer.head}, {counted(len(recognizer.classes), 'class')}"
        progress.table(title, ("image", "class", "probability", _NEAR), lines, left=("class", _NEAR))


def _write(config: Config, runner: Runner, path: str, flags: dict[str, Any]) -> None:
    from model.recognition import predict_job, rows, trained
    from model.recognition.source import Source

    output = flags["output"]
    rows.check(output)
    work = f"{output}.parts"
    runs = Source(path, unsafe_models=flags["unsafe_models"]).runs
    wanted = predict_job.Wanted(
        path,
        flags["head"] or trained.heads(runs)[0],
        trained.seeds_of(flags["seeds"]),
        flags["top"],
        flags["neighbors"],
        flags["influence"],
        flags["unsafe_models"],
        _names(flags["classes"]),
    )
    with runner.stage("predict", "photographs", work) as stage:
        source = predict_job.source_of(flags["images"], work) if flags["images"] else config.predict_set
        data = "" if flags["images"] else config.data
        counts = predict_job.run(wanted, source, data, output, work, config.embed, runner)
        stage.worked = False
        what, rate = counted(counts.rows, "photograph"), counts.rows / stage.secs
        title = f"predict: {what} in {duration(stage.secs)}, {rate:,.{0 if rate >= 10 else 2}f}/s"
        summary(title, {"head": wanted.head, **_lines(counts), "output": output})


def _names(path: str) -> tuple[str, ...]:
    return tuple(class_names.read(path)) if path else ()


def _lines(counts: "Counts") -> dict[str, str]:
    lines = {}
    if counts.labelled:
        lines["accuracy"] = f"{counts.right / counts.labelled:.3f} of {counts.labelled:,} with a label"
    if counts.unknown:
        named = f"{counts.rows - counts.labelled:,} of {counts.rows:,}, such as of {counts.unknown[0]!r}"
        lines["no class"] = f"{named}, which is the name of no class of the model"
    if counts.rejected:
        lines["rejected"] = f"{counts.rejected:,}, listed in the .rejects.parquet beside the output"
    if counts.passed_over:
        lines["passed over"] = counts.passed_over
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(
        run,
        str(__doc__).splitlines()[0],
        argv,
        beam=True,
        switches=_SWITCHES,
        values=_VALUES,
        needs_config=False,
        writes_workdir=False,
        foresee=foresee,
    )


if __name__ == "__main__":
    sys.exit(main())
