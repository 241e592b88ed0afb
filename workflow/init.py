"""Looks at a folder of images and writes a config for it: `web-memory init NAME --images=.. [--pairs=..]`.

It prints what it understood, what was ambiguous, and the next commands. Images may be class folders, lists, tables,
COCO's JSON, Parquet, tars or vectors (docs/start.md); a validation and a test set are cut out where there is none.
"""

import keyword
import os
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from configs.base import Config
from pipelines import options, progress, storage
from pipelines.errors import UserError

if TYPE_CHECKING:
    from workflow.discovery.facts import Facts
    from workflow.discovery.plan import Plan

_VALUES = {
    "images": ("", "folder or file of the labelled images"),
    "pairs": ("", "folder or file of the image-text pairs of the memory; without it the memory is the training set"),
}
_SWITCHES = {"force": "replace a config of this name that differs"}
_PACKAGES = ("configs", "index", "model", "pipelines", "workflow", "web_memory", "web_memory_names")
_NAMED = 3
_CHARS = 60


def run(config: Config, name: str, images: str, pairs: str, force: bool) -> None:
    """Writes `NAME.py` into the working directory.

    Raises:
        UserError: if the name cannot be one of a config, a folder is not understood, or a config is in the way.
    """
    file, text = _look(config, name, images, pairs, force)
    with storage.atomic_write(str(file.absolute())) as out:
        out.write(text.encode())
    options.load(str(file))
    progress.summary(f"wrote {file}", {"look at it, then": f"web-memory check --config={file}"})
    progress.summary("all stages", {"then": f"web-memory run --config={file}"})


def foresee(config: Config, name: str, images: str, pairs: str, force: bool) -> dict[str, str]:
    """Shows what was understood, and returns what would be written; errors as those of `run`."""
    file, text = _look(config, name, images, pairs, force)
    return {"would": f"write {file}, {len(text.splitlines())} lines"}


def _look(config: Config, name: str, images: str, pairs: str, force: bool) -> tuple[pathlib.Path, str]:
    """Prints what was understood; returns the file of the config and its text."""
    if config != Config():
        raise UserError("init takes no fields of a config; change them in the file that it writes")
    name = _checked(name.removesuffix(".py"))
    if not images:
        raise UserError("--images is missing: name the folder of your images, such as --images=/data/photos")
    from workflow.discovery import config_file, plan

    made = plan.make(name, _whole(images), _whole(pairs) if pairs else "")
    _show(made)
    file, text = pathlib.Path(f"{name}.py"), config_file.text(made.draft)
    if file.exists() and file.read_bytes() != text.encode() and not force:
        raise UserError(f"{file}: exists and differs; give another name, or --force to replace it")
    return file, text


def _checked(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise UserError(f"init {name}: name the config, by letters, digits, - and _: web-memory init NAME --images=..")
    if name in _PACKAGES or name in sys.stdlib_module_names or keyword.iskeyword(name):
        raise UserError(f"init {name}: {name}.py would hide a module of this name; choose another")
    return name


def _whole(path: str) -> str:
    """Returns a path from the root; the config must read the same wherever it is run."""
    return path if storage.is_url(path) else os.path.abspath(os.path.expanduser(path))


def _show(made: "Plan") -> None:
    """Prints what was understood."""
    from pipelines.sources import patterns

    for split, facts in made.facts.items():
        progress.summary(
            f"{split}: {made.found.name}", {"path": made.found.splits[split].path, **_facts(facts, made.names)}
        )
    for note in made.draft.notes[1:]:
        progress.say(f"note: {note}")
    if others := _passed_over(made):
        progress.say(f"passed over: {others}")
    source, notes = made.draft.sources["memory"]
    rows = {"captions": _captions(made)}
    if made.pairs:
        rows = {"path": patterns.shown(source.path), **_facts(made.pairs_facts, ()), **rows}
    progress.summary(f"memory: {made.pairs.name if made.pairs else 'the training set'}", rows)
    for note in notes:
        progress.say(f"note: {note}")


def _captions(made: "Plan") -> str:
    seen = made.pairs_facts
    if not seen.captions and made.draft.texts:
        return "the names of the classes"
    return f"{seen.captions:,} of the {seen.rows:,} rows that were read"


def _facts(facts: "Facts", class_names: Sequence[str]) -> dict[str, str]:
    more = " and more, not read here" if facts.stopped else ""

    def named(label: Any) -> str:
        return f"{label} {_short(class_names[label])}" if class_names and isinstance(label, int) else _short(label)

    rows = {"rows": f"{facts.rows:,}{more}"}
    if facts.counts:
        ranked = facts.counts.most_common()
        (large, most), (small, least) = ranked[0], ranked[-1]
        names = ", ".join(named(label) for label, _ in ranked[:_NAMED])
        rows["classes"] = f"{len(ranked):,}, such as {names}"
        is_even = least == most
        rows["images each"] = f"{most:,}" if is_even else f"{least:,} ({named(small)}) to {most:,} ({named(large)})"
    for number, row in enumerate(facts.samples):
        rows[f"sample {number + 1}"] = f"{_short(row.member)}, caption {_short(row.caption)}, label {named(row.label)}"
    if facts.problem:
        rows["cannot be used"] = facts.problem
    return rows


def _short(value: Any) -> str:
    text = "none" if value is None else repr(value)
    return text if len(text) <= _CHARS else f"{text[:_CHARS]}.."


def _passed_over(made: "Plan") -> str:
    """Returns the files of class folders that are no images, by suffix."""
    from pipelines.images.suffixes import is_image
    from pipelines.sources.sample import said_passed_over
    from workflow.discovery import folder

    said = []
    for split, source in made.found.splits.items():
        if source.format == "image_folder":
            counts, stopped = folder.suffixes(source.path)
            read = [f".{field.removeprefix('caption=')}" for field in source.fields]
            for suffix in [suffix for suffix in counts if is_image(f"x{suffix}") or suffix in read]:
                del counts[suffix]
            if counts:
                said.append(f"{said_passed_over(counts)} of {split}{' (not all was listed)' if stopped else ''}")
    return "; ".join(said)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command."""
    return options.main(run, str(__doc__).splitlines()[0], argv, switches=_SWITCHES, values=_VALUES, argument="name")


if __name__ == "__main__":
    sys.exit(main())
