"""What an ablation can vary, by name, and how each value changes the configuration or the task.

`study` trains and draws, `memories` makes other memories.
"""

import dataclasses
import functools
import re
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from configs.base import Config, Train
from configs.schema import training
from configs.schema.search import KEY
from model.data import datasets, memories
from model.data.datasets import Task
from model.data.memories import Memory
from model.data.vectors import chunks
from model.measures import relevance
from model.reports.ablations import false_captions
from pipelines.errors import UserError, nearest
from pipelines.manifest import Embeddings, Neighbors

_LEAKAGE = "leakage"
_FOLDER = "folder:"
# Share of the memory that is poisoned, and the victims that are drawn.
_POISONED, _VICTIMS = 0.01, 4


@dataclasses.dataclass(frozen=True)
class Point:
    """The training of one value.

    Attributes:
        train: its settings.
        task: with its neighbour lists.
        rows: of the memory that is searched.
        victim: the class that the memory was rewritten to harm; None for none.
    """

    train: Train
    task: Task
    rows: int
    victim: int | None = None


class Base:
    """The configuration that an ablation varies; tasks and memories are loaded on demand, and the last are kept.

    Attributes:
        config: all of it.
        places: of all inputs.
        train: the settings.
        seed: of random rows, and of the trials.
        exclude_same_image: whether lists leave out rows with the bytes of the query's image.
        lists: the neighbour lists.
    """

    def __init__(self, config: Config) -> None:
        """Loads the manifest of the neighbour lists only.

        Raises:
            UserError: if there are no lists, or they are not those of the nearest keys.
        """
        self.config, self.places, self.train, self.seed = config, config.places, config.train, config.seed
        self.exclude_same_image = config.neighbors.exclude_same_image
        if config.neighbors.by != KEY:
            raise UserError(
                f"--config.neighbors.by={config.neighbors.by}: ablations search the memory by keys alone; give "
                f"--config.neighbors.by={KEY} and a workdir with such lists"
            )
        self.lists = Neighbors.open(self.places.neighbors)
        self.task = functools.lru_cache(maxsize=1)(self._task)
        self.memory = functools.lru_cache(maxsize=2)(self._memory)

    @property
    def k(self) -> int:
        """Length of the lists that the configuration trains on."""
        return self.train.k or self.lists.k

    @property
    def rows(self) -> int:
        """Rows of the memory."""
        return Embeddings(self.places.memory).rows

    def _task(self, values: tuple[str, ...] = (), k: int = 0) -> Task:
        """Returns the task of the configuration, with other values or lists if they are given."""
        train = dataclasses.replace(self.train, values=values or self.train.values, k=k or self.train.k)
        return datasets.load(self.places, train)

    def _memory(self, also: tuple[str, ...] = ()) -> Memory:
        """Returns the memory, including rows that were dropped for these reasons."""
        return memories.load(self.places.memory, self.train.values, also)

    def retrieve(self, memory: Memory, exclude_same_image: bool | None = None) -> Point:
        """Returns the point with another memory."""
        exclude = self.exclude_same_image if exclude_same_image is None else exclude_same_image
        task = memories.retrieve(self.places, self.task(), memory, self.k, exclude)
        return Point(self.train, task, len(memory))

    def with_train(self, **changes: object) -> Point:
        """Returns the point with other settings and the same lists."""
        train = dataclasses.replace(self.train, **changes)  # type: ignore[arg-type]
        task = self.task(train.values, train.k)
        return Point(train, task, self.rows)


def _number(text: str, kind: type, low: float, high: float, name: str) -> float:
    """Parses a number or a fraction such as `1/16`."""
    try:
        number = float(Fraction(text))
    except (ValueError, ZeroDivisionError) as error:
        raise UserError(f"--vary={name}={text}: must be a number, such as 2 or 1/2") from error
    if not low <= number <= high or number != kind(number):
        what = "a whole number" if kind is int else "a number"
        raise UserError(f"--vary={name}={text}: must be {what} from {low:g} to {high:g}")
    return number


def _k(base: Base, text: str) -> Point:
    return base.with_train(k=int(_number(text, int, 1, base.lists.k, "k")))


def _layers(base: Base, text: str) -> Point:
    return base.with_train(layers=int(_number(text, int, 1, 64, "layers")))


def _values(base: Base, text: str) -> Point:
    return base.with_train(values=tuple(text.split("+")))


def _start(base: Base, text: str) -> Point:
    return base.with_train(start=text)


def _similarity(base: Base, text: str) -> Point:
    return base.with_train(similarity=text)


def _value_scale(base: Base, text: str) -> Point:
    return base.with_train(value_scale=_number(text, float, 0, 1000, "value_scale"))


def _size(base: Base, text: str) -> Point:
    """Keeps a random share of the memory, nested by size, and searches again."""
    memory = base.memory()
    count = round(_number(text, float, 0, 1, "memory_size") * len(memory))
    order = np.random.default_rng(base.seed).permutation(len(memory))
    return base.retrieve(memory.take(np.sort(order[:count])))


def _source(base: Base, text: str) -> Point:
    memory, pattern = base.memory(), text.removeprefix("url:")
    if text == "all":
        return base.retrieve(memory)
    if text in ("train", "all+train"):
        images = memories.of_training_set(base.places, base.task())
        return base.retrieve(images if text == "train" else memory.join(images))
    if text in ("named", "unnamed"):
        names = base.task().class_names
        named = np.zeros(len(memory), bool)
        named[relevance.named_classes(memory.captions.tolist(), names) // len(names)] = True
        return base.retrieve(memory.take(named if text == "named" else ~named))
    if text == "random":
        return base.retrieve(memories.random(memory, base.seed))
    if text.startswith(_FOLDER):
        return base.retrieve(_other(base, text.removeprefix(_FOLDER)))
    if pattern == text:
        known = ("all", "named", "unnamed", "train", "all+train", "random")
        raise UserError(
            f"--vary=memory={text}: no such memory; {nearest(text, known)}, url: and a pattern, or folder: and a memory"
        )
    try:
        chosen = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--vary=memory={text}: is not a regular expression ({error})") from error
    return base.retrieve(memory.take(np.array([bool(chosen.search(url)) for url in memory.urls], bool)))


def _other(base: Base, folder: str) -> Memory:
    """Returns the memory of another domain; a `UserError` if its vectors are not those of the same encoders."""
    embeddings = Embeddings(folder)
    for column in ("key", *(f"value_{kind}" for kind in base.train.values)):
        if embeddings.encoder(column).fingerprint != base.lists.encoders[column].fingerprint:
            raise UserError(
                f"--vary=memory={_FOLDER}{folder}: its {column} is of another encoder than that of the memory; embed "
                "it with the same encoders"
            )
    return memories.load(folder, base.train.values)


def _poison(base: Base, text: str) -> Point:
    """Rewrites the rows nearest to the test images of one class to name another."""
    task = base.task()
    if text == "0":
        return Point(base.train, task, base.rows)
    victim, target = _classes(text, len(task.class_counts))
    names = _embedded_names(task)
    test = task.splits["test"]
    if not (test.labels == victim).any():
        raise UserError(f"--vary=poison={text}: class {victim} has no test image; name another victim")
    rows = min(round(_POISONED * base.rows), len(task.memory_ids))
    keys = np.concatenate([chunk for _, chunk in chunks(task.keys)])
    poisoned = memories.nearest_to_any(test.queries[test.labels == victim], keys, rows)
    texts = np.concatenate([chunk for _, chunk in chunks(task.values["text"])])
    texts[poisoned] = names[target]
    changed = dataclasses.replace(task, values={**task.values, "text": texts})
    return Point(base.train, changed, base.rows, victim)


def _embedded_names(task: Task) -> np.ndarray:
    if "text" not in task.values or "text" not in task.name_vectors:
        raise UserError(
            "--vary=poison: rewrites captions to the name of a class; set --config.train.values=text and "
            "--config.class_names, and run web-memory embed"
        )
    return task.name_vectors["text"]


def _classes(text: str, classes: int) -> tuple[int, int]:
    """Parses `victim-target`."""
    parts = text.split("-")
    if len(parts) != 2 or parts[0] == parts[1] or not all(p.isdecimal() and int(p) < classes for p in parts):
        raise UserError(
            f"--vary=poison={text}: must be 0, or the numbers of two classes below {classes}, the victim first, "
            "such as 3-7"
        )
    return int(parts[0]), int(parts[1])


def _victims(base: Base) -> tuple[str, ...]:
    """Returns victims that are drawn, each with the class of the most similar name and with any other as target."""
    task = base.task()
    names, classes = _embedded_names(task), len(task.class_counts)
    shown = np.unique(task.splits["test"].labels)
    rng, found = np.random.default_rng(base.seed), ["0"]
    for victim in rng.choice(shown, min(_VICTIMS, len(shown)), replace=False).tolist():
        similar = names @ names[victim]
        similar[victim] = -np.inf
        near, other = int(similar.argmax()), int((victim + rng.integers(1, classes)) % classes)
        found += dict.fromkeys((f"{victim}-{near}", f"{victim}-{other}"))
    return tuple(found)


def _noise(base: Base, text: str) -> Point:
    """Permutes the texts of a random share of the rows, nested by size."""
    task = base.task()
    if "text" not in task.values:
        raise UserError("--vary=noise: permutes captions; set --config.train.values=text")
    rng = np.random.default_rng(base.seed)
    texts, order = np.array(task.values["text"]), rng.permutation(len(task.memory_ids))
    noisy = order[: round(_number(text, float, 0, 1, "noise") * len(order))]
    texts[noisy] = texts[rng.permutation(noisy)]
    return Point(base.train, dataclasses.replace(task, values={**task.values, "text": texts}), base.rows)


def _captions(base: Base, text: str) -> Point:
    """Gives all rows other captions."""
    task = base.task()
    if text == "own":
        return Point(base.train, task, base.rows)
    if text != false_captions.JUNK and not text.startswith(false_captions.FILE):
        known = ("own", false_captions.JUNK)
        raise UserError(f"--vary=captions={text}: no such captions; {nearest(text, known)}, file: and a text file")
    if "text" not in task.values:
        raise UserError("--vary=captions: replaces captions; set --config.train.values=text")
    lines = false_captions.draw(text, len(task.memory_ids), base.seed)
    info = base.lists.encoders[false_captions.COLUMN]
    texts = false_captions.embed(lines, base.config.encoders, base.config.embed, info)
    return Point(base.train, dataclasses.replace(task, values={**task.values, "text": texts}), base.rows)


def _leakage_filter(base: Base, text: str) -> Point:
    if text not in ("on", "off", "none"):
        raise UserError(f"--vary=leakage={text}: no such value; {nearest(text, ('on', 'off', 'none'))}")
    memory = base.memory((_LEAKAGE,))
    if len(memory) == len(base.memory()):
        raise UserError("--vary=leakage: no rows of the memory were dropped for leakage; embed with filters.leakage")
    return base.retrieve(base.memory() if text == "on" else memory, False if text == "none" else None)


@dataclasses.dataclass(frozen=True)
class Variation:
    """One thing that can be varied.

    Attributes:
        title: in tables and plots.
        values: the default ones.
        point: returns the training of a value.
        scale: of the plot's axis: `log`, `linear`, or `names`.
        note: explains the values.
    """

    title: str
    values: tuple[str, ...]
    point: Callable[[Base, str], Point]
    scale: str = "names"
    note: str = ""


VARY: dict[str, Variation] = {
    "k": Variation("neighbours k", ("1", "2", "4", "8", "16", "32", "64", "128"), _k, "log"),
    "values": Variation("kind of values", ("text", "image", "text+image"), _values),
    "layers": Variation("attention layers", ("1", "2", "3"), _layers),
    "start": Variation("start of attention", training.STARTS, _start),
    "similarity": Variation(
        "similarity", training.SIMILARITIES, _similarity, note="Score that attention uses; the lists stay the same."
    ),
    "value_scale": Variation(
        "what values add at first",
        ("0", "1", "2.5", "5"),
        _value_scale,
        note="0: nothing; otherwise the key that they predict, times this, relative to the query.",
    ),
    "memory_size": Variation(
        "share of the memory",
        ("1/16", "1/8", "1/4", "1/2", "1"),
        _size,
        "log",
        "A random share of the rows, searched again, exactly, so that lists stay as long.",
    ),
    "memory": Variation(
        "memory",
        ("all", "named", "unnamed", "train", "all+train", "random"),
        _source,
        note="named: captions that name a class; unnamed: the others; train: the training images with the names of "
        "their classes, without an image's own entry; url:..: rows whose URL matches a regular expression. Searched "
        "again, exactly.",
    ),
    "noise": Variation(
        "share of permuted captions",
        ("0", "0.25", "0.5", "0.75", "1"),
        _noise,
        "linear",
        "Rows exchange their texts; keys and lists stay the same.",
    ),
    "captions": Variation(
        "captions",
        ("own", false_captions.JUNK),
        _captions,
        note="junk: names of files and what shops write; file:..: lines of a text file, such as captions in another "
        "language. Keys and lists stay the same.",
    ),
    "poison": Variation(
        "poisoned class",
        (),
        _poison,
        note="victim-target: the 1 % of the memory nearest to the test images of the victim name the target instead, "
        "as if its author knew them; keys and lists stay the same. 0: nothing is rewritten.",
    ),
    "leakage": Variation(
        "leakage filter",
        ("on", "off", "none"),
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
        kinds = [role.removeprefix("value_") for role in base.lists.encoders]
        return tuple(value for value in VARY[name].values if set(value.split("+")) <= set(kinds))
    return VARY[name].values


def parse(text: str) -> tuple[str, tuple[str, ...]]:
    """Splits `name=v1,v2` into a name of `VARY` and its values, which may be none; a `UserError` if it is wrong."""
    name, _, rest = text.partition("=")
    if name not in VARY:
        hint = nearest(name, tuple(VARY)) if name else f"known are {', '.join(VARY)}"
        raise UserError(f"--vary={text}: nothing of this name can be varied; {hint}")
    values = tuple(value.strip() for value in rest.split(",") if value.strip())
    if len(set(values)) < len(values):
        raise UserError(f"--vary={text}: names a value twice")
    return name, values
