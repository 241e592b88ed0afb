"""What an ablation can vary, by name, and how each value changes the configuration or the task.

`study` trains and draws, `memories` makes other memories.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from configs.schema import training
from model.data import memories
from model.data.vectors import chunks
from model.measures import relevance
from model.reports.ablations import false_captions, reading
from model.reports.ablations.base import Base, Point
from pipelines.errors import UserError, nearest
from pipelines.manifest import Embeddings, fingerprint
from pipelines.progress import counted

_LEAKAGE = "leakage"
# Share of the memory that is poisoned, and the victims that are drawn.
_POISONED, _VICTIMS = 0.01, 4


def _setting(name: str) -> Callable[[Base, Any], Point]:
    """Returns what makes the point of a value of a setting of the training."""
    return lambda base, value: base.with_train(**{name: value})


def _size(base: Base, share: float) -> Point:
    """Keeps a random share of the memory, nested by size, and searches again."""
    memory = base.memory()
    count = round(share * len(memory))
    if not count:
        raise UserError(
            f"--vary=memory_size={share:g}: of {counted(len(memory), 'row')} that is none; give a larger share"
        )
    order = np.random.default_rng(base.seed).permutation(len(memory))
    return base.retrieve(memory.take(np.sort(order[:count])))


def _source(base: Base, chosen: str | re.Pattern[str] | Embeddings) -> Point:
    if isinstance(chosen, Embeddings):
        other = memories.load(chosen.folder, base.train.values)
        return dataclasses.replace(base.retrieve(other), made_of=chosen.snapshot)
    memory = base.memory()
    if isinstance(chosen, re.Pattern):
        matches = np.array([bool(chosen.search(url)) for url in memory.urls], bool)
        if not matches.any():
            raise UserError(f"--vary=memory=url:{chosen.pattern}: matches the URL of no row of the memory")
        return base.retrieve(memory.take(matches))
    if chosen in ("train", "all+train"):
        images = memories.of_training_set(base.places, base.task())
        return base.retrieve(images if chosen == "train" else memory.join(images))
    if chosen in ("named", "unnamed"):
        names = base.task().class_names
        named = np.zeros(len(memory), bool)
        named[relevance.named_classes(memory.captions.tolist(), names) // len(names)] = True
        return base.retrieve(memory.take(named if chosen == "named" else ~named))
    return base.retrieve(memories.random(memory, base.seed) if chosen == "random" else memory)


def _poison(base: Base, classes: tuple[int, int] | None) -> Point:
    """Rewrites the rows nearest to the test images of one class to name another."""
    task = base.task()
    if classes is None:
        return Point(base.train, task, base.rows)
    (victim, target), names, test = classes, reading.embedded_names(task), task.splits["test"]
    rows = min(round(_POISONED * base.rows), len(task.memory_ids))
    if not rows:
        raise UserError(f"--vary=poison: {_POISONED:.0%} of the {counted(base.rows, 'row')} of the memory is none")
    keys = np.concatenate([chunk for _, chunk in chunks(task.keys)])
    poisoned = memories.nearest_to_any(test.queries[test.labels == victim], keys, rows)
    texts = np.concatenate([chunk for _, chunk in chunks(task.values["text"])])
    texts[poisoned] = names[target]
    changed = dataclasses.replace(task, values={**task.values, "text": texts})
    return Point(base.train, changed, base.rows, victim)


def _victims(base: Base) -> tuple[str, ...]:
    """Returns victims that are drawn, each with the class of the most similar name and with any other as target."""
    task = base.task()
    names, classes = reading.embedded_names(task), len(task.class_counts)
    shown = np.unique(task.splits["test"].labels)
    rng, found = np.random.default_rng(base.seed), ["0"]
    for victim in rng.choice(shown, min(_VICTIMS, len(shown)), replace=False).tolist():
        similar = names @ names[victim]
        similar[victim] = -np.inf
        near, other = int(similar.argmax()), int((victim + rng.integers(1, classes)) % classes)
        found += dict.fromkeys((f"{victim}-{near}", f"{victim}-{other}"))
    return tuple(found)


def _noise(base: Base, share: float) -> Point:
    """Permutes the texts of a random share of the rows, nested by size."""
    task = base.task()
    rng = np.random.default_rng(base.seed)
    texts, order = np.array(task.values["text"]), rng.permutation(len(task.memory_ids))
    noisy = order[: round(share * len(order))]
    texts[noisy] = texts[rng.permutation(noisy)]
    return Point(base.train, dataclasses.replace(task, values={**task.values, "text": texts}), base.rows)


def _captions(base: Base, chosen: str | tuple[str, ...]) -> Point:
    """Gives all rows other captions."""
    task = base.task()
    if chosen == "own":
        return Point(base.train, task, base.rows)
    count, made_of = len(task.memory_ids), ""
    if isinstance(chosen, str):
        lines = false_captions.junk(count, base.seed)
    else:
        lines, made_of = false_captions.draw(chosen, count, base.seed), fingerprint(chosen)
    info = base.lists.encoders[false_captions.COLUMN]
    texts = false_captions.embed(lines, base.config.encoders, base.config.embed, info)
    changed = dataclasses.replace(task, values={**task.values, "text": texts})
    return Point(base.train, changed, base.rows, made_of=made_of)


def _leakage_filter(base: Base, filter: str) -> Point:
    memory = base.memory((_LEAKAGE,))
    if len(memory) == len(base.memory()):
        raise UserError("--vary=leakage: no rows of the memory were dropped for leakage; embed with filters.leakage")
    return base.retrieve(base.memory() if filter == "on" else memory, False if filter == "none" else None)


@dataclasses.dataclass(frozen=True)
class Variation:
    """One thing that can be varied.

    Attributes:
        title: in tables and plots.
        values: the default ones.
        read: returns what the text of a value means; a `UserError` if it means nothing.
        point: returns the training of what was read.
        scale: of the plot's axis: `log`, `linear`, or `names`.
        note: explains the values.
    """

    title: str
    values: tuple[str, ...]
    read: Callable[[Base, str], Any]
    point: Callable[[Base, Any], Point]
    scale: str = "names"
    note: str = ""


VARY: dict[str, Variation] = {
    "k": Variation("neighbours k", ("1", "2", "4", "8", "16", "32", "64", "128"), reading.k, _setting("k"), "log"),
    "values": Variation("kind of values", ("text", "image", "text+image"), reading.values, _setting("values")),
    "layers": Variation("attention layers", ("1", "2", "3"), reading.whole("layers", 64), _setting("layers")),
    "start": Variation(
        "start of attention", training.STARTS, reading.word("start", training.STARTS), _setting("start")
    ),
    "similarity": Variation(
        "similarity",
        training.SIMILARITIES,
        reading.word("similarity", training.SIMILARITIES),
        _setting("similarity"),
        note="Score that attention uses; the lists stay the same.",
    ),
    "value_scale": Variation(
        "what values add at first",
        ("0", "1", "2.5", "5"),
        reading.share("value_scale", 1000),
        _setting("value_scale"),
        note="0: nothing; otherwise the key that they predict, times this, relative to the query.",
    ),
    "memory_size": Variation(
        "share of the memory",
        ("1/16", "1/8", "1/4", "1/2", "1"),
        reading.share("memory_size", 1),
        _size,
        "log",
        "A random share of the rows, searched again, exactly, so that lists stay as long.",
    ),
    "memory": Variation(
        "memory",
        ("all", "named", "unnamed", "train", "all+train", "random"),
        reading.memory,
        _source,
        note="named: captions that name a class; unnamed: the others; train: the training images with the names of "
        "their classes, without an image's own entry; url:..: rows whose URL matches a regular expression. Searched "
        "again, exactly.",
    ),
    "noise": Variation(
        "share of permuted captions",
        ("0", "0.25", "0.5", "0.75", "1"),
        reading.noise,
        _noise,
        "linear",
        "Rows exchange their texts; keys and lists stay the same.",
    ),
    "captions": Variation(
        "captions",
        ("own", "junk"),
        reading.captions,
        _captions,
        note="junk: names of files and what shops write; file:..: lines of a text file, such as captions in another "
        "language. Keys and lists stay the same.",
    ),
    "poison": Variation(
        "poisoned class",
        (),
        reading.poison,
        _poison,
        note="victim-target: the 1 % of the memory nearest to the test images of the victim name the target instead, "
        "as if its author knew them; keys and lists stay the same. 0: nothing is rewritten.",
    ),
    "leakage": Variation(
        "leakage filter",
        ("on", "off", "none"),
        reading.word("leakage", ("on", "off", "none")),
        _leakage_filter,
        note="off: copies of val and test images are in the memory, but no query retrieves its own bytes; none: it may "
        "retrieve them too. Searched again, exactly.",
    ),
}


def default_values(name: str, base: Base) -> tuple[str, ...]:
    """Returns the default values of a variation that the lists and the memory of a configuration allow."""
    if name == "poison":
        return _victims(base)
    if name == "k":
        return tuple(value for value in VARY[name].values if int(value) <= base.lists.k)
    if name == "values":
        return tuple(value for value in VARY[name].values if set(value.split("+")) <= {*reading.kinds(base)})
    return VARY[name].values


def parse(text: str) -> tuple[str, tuple[str, ...]]:
    """Splits `name=v1,v2` into a name of `VARY` and its values, which may be none; a `UserError` if it is wrong."""
    name, _, rest = text.partition("=")
    if name not in VARY:
        hint = nearest(name, tuple(VARY)) if name else f"known are {', '.join(VARY)}"
        raise UserError(f"--vary={text}: nothing of this name can be varied; {hint}")
    # A comma inside brackets is part of a regular expression.
    return name, tuple(value.strip() for value in re.split(r",(?![^(\[{]*[)\]}])", rest) if value.strip())


def read(base: Base, name: str, values: Sequence[str]) -> list[Any]:
    """Returns what the values of a variation mean; a `UserError` if one means nothing, or what another one means."""
    found: list[Any] = []
    for text in values:
        value = VARY[name].read(base, text)
        if value in found:
            raise UserError(f"--vary={name}={','.join(values)}: names a value twice, {text}")
        found.append(value)
    return found
