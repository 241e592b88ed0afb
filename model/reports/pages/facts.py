"""What was run: data, encoders, settings, times, versions, and the commands that do it again."""

import importlib.metadata
import platform
import shlex
from collections.abc import Iterator

from configs.base import Config, Source
from model.measures import metrics
from model.reports.grid import Grid
from model.reports.pages.inputs import Inputs
from model.reports.pages.rows import Account
from pipelines import fields, options, storage
from pipelines.progress import counted, duration, read_note

_LIBRARIES = (
    *("jax", "flax", "optax", "tensorflow", "scann", "apache-beam", "numpy", "scipy", "pyarrow", "pillow"),
    "tokenizers",
)
# The first two are no settings; the sources are shown on their own.
_NO_SETTINGS = ("data", "workdir", "generation")
_SOURCES = ("memory", "train_set", "val_set", "test_set")


def group_notes(inputs: Inputs, shots: str) -> tuple[str, ...]:
    """Returns what each shot group is by a convention, with its classes and test images."""
    train, counts = inputs.config.train, inputs.found.class_counts
    groups = metrics.shot_groups(counts, train.many_over, train.few_under, shots)
    most, least, _ = metrics.shot_bounds(counts, train.many_over, train.few_under)
    many, few, middle = f"more than {most}", f"fewer than {least}", f"{least} to {most}"
    if shots == "oltr":
        many, few, middle = f"{most} or more", f"{least} or fewer", f"{least + 1} to {most - 1}"
    words = {"many": many, "medium": middle, "few": few}
    return tuple(
        f"{name}: {words[name]} training images, {counted((groups == name).sum(), 'class')}, "
        f"{counted(inputs.class_tests[groups == name].sum(), 'test image')}"
        for name in metrics.GROUPS
    )


def data(inputs: Inputs, found: list[Account]) -> list[tuple[str, str]]:
    """Returns name and description of each source."""
    config, classes = inputs.config, len(inputs.found.class_counts)
    rows = [("data folder", config.data or "."), ("workdir", config.workdir)]
    for account, section in zip(found, _SOURCES, strict=True):
        source: Source = getattr(config, section)
        rows.append((account.name, f"{counted(account.embeddings.rows, 'row')} of {source.path} ({source.format})"))
    named = config.class_names or ("the training set" if inputs.is_named else "nowhere: classes are numbers")
    counts = inputs.found.class_counts
    spread = f"{counts.min():,} to {counts.max():,} training images each"
    rows.append(("classes", f"{classes:,}, {spread}; names from {named}"))
    rows.append(("neighbours", f"{inputs.listed} for each image, {inputs.config.train.k or inputs.listed} used"))
    return rows


def encoders(inputs: Inputs) -> Grid:
    """Returns the table of vector columns and the encoders that made them."""
    handles = {"key": inputs.config.encoders.key}
    for role in ("value_image", "value_text"):
        for handle in getattr(inputs.config.encoders, role):
            name, equals, rest = handle.partition("=")
            handles[f"{role}_{name}" if equals else role] = rest if equals else handle
    return Grid(
        "Encoders",
        ("vectors", "encoder", "width", "type", "fingerprint"),
        [
            (column, handles.get(column, "-"), str(info.dim), info.dtype, info.fingerprint)
            for column, info in sorted(inputs.memory.encoders.items())
        ],
        ("key: what images are searched by; values: what a head reads of a neighbour",),
    )


def settings(config: Config) -> list[tuple[str, str]]:
    """Returns the fields that are not at their defaults."""
    defaults = {leaf.name: leaf.value for leaf in fields.leaves(type(config)())}
    return [
        (leaf.name, leaf.shown or "(empty)")
        for leaf in fields.leaves(config)
        if leaf.value != defaults.get(leaf.name)
        and leaf.name not in _NO_SETTINGS
        and leaf.name.partition(".")[0] not in _SOURCES
    ]


def all_settings(config: Config) -> str:
    """Returns all fields, a line each."""
    return "\n".join(f"{leaf.name}={leaf.shown}" for leaf in fields.leaves(config))


def times(workdir: str) -> Grid:
    """Returns the table of stages, in the order in which they ended."""
    notes = [read_note(path) for path in storage.files(storage.join(workdir, "stages"), ".json")]
    notes.sort(key=lambda note: str(note.get("ended", "")))
    return Grid(
        "When, and how long",
        ("stage", "ended (UTC)", "time"),
        [(note["stage"], str(note.get("ended", "-")).rstrip("Z"), duration(note["secs"])) for note in notes],
        ("of the last command of each stage that had something to do",),
    )


def versions() -> Grid:
    """Returns the table of installed versions."""

    def installed() -> Iterator[tuple[str, str]]:
        yield "web-memory", options.version()
        yield "Python", platform.python_version()
        for name in _LIBRARIES:
            try:
                yield name, importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                yield name, "-"

    return Grid("Versions", ("package", "version"), list(installed()), ("installed when this report was written",))


def commands(inputs: Inputs) -> list[str]:
    """Returns the commands that make these results again."""
    flags = shlex.join(inputs.flags)
    return [f"web-memory {stage} {flags}".strip() for stage in ("run", "evaluate", "report")]
