"""What heads that know classes by name reach on classes that were not trained, beside training on them.

    python -m benchmarks.new_classes --config=configs/two_tower.py --config.data=DATA --config.workdir=WORKDIR

WORKDIR has memory, queries, index and neighbours; it is only read. In each draw, 20 classes leave the images of train
and val, the names and the counts; heads are trained on the others, then `Recognizer.with_classes` adds the 20 by name.
Beside that, the same heads are trained once on all classes. Few trials and seeds save time:
`--config.train.trials=2 --config.train.seeds=0`. Intervals are 95 % bootstrap over test images of the mean of the
draws. The output is in Markdown.
"""

import dataclasses
import os
import sys
import tempfile
from collections.abc import Callable, Sequence

import numpy as np

from configs.base import Config
from configs.schema.data import SPLITS
from model.data import class_names, datasets
from model.data.datasets import Split, Task
from model.measures import bootstrap, new_classes
from model.recognition import trained
from model.recognizer import Recognizer
from model.training import trials
from pipelines import manifest, options, schemas
from pipelines.manifest import Embeddings
from pipelines.progress import Stage

HEADS = ("linear", "zero_shot", "mam_names")
_NEW, _DRAWS, _RESAMPLES = 20, 3, 2000
_READ = ("memory", "queries", "index", "neighbors", "classes.parquet")


@dataclasses.dataclass(frozen=True)
class Photographs:
    """Labelled images that are embedded: keys as stored `[N, D]`, SHA-256 of each image, names of their classes."""

    keys: np.ndarray
    images: list[bytes]
    classes: np.ndarray

    @classmethod
    def read(cls, folder: str, names: Sequence[str]) -> "Photographs":
        """Reads a split; `names` are those of the classes."""
        parts = [Embeddings(folder).read(shard, ["content_key", "label", "key"]) for shard in sorted(_shards(folder))]
        keys = np.concatenate([schemas.to_matrix(part["key"]) for part in parts])
        images = [image for part in parts for image in part["content_key"].to_pylist()]
        labels = np.concatenate([part["label"].to_numpy() for part in parts])
        return cls(keys, images, np.array(names, object)[labels])

    def predictions(self, recognizer: Recognizer) -> np.ndarray:
        """Returns the name of the class that a recogniser gives each image, `[N]`."""
        session, engine = recognizer._session, recognizer._engine("")
        state = session.state()
        lists = engine.look_up(state.index, state.memory, self.keys, self.images)
        found = engine.predict(state.memory, self.keys, lists, 1).classes[:, 0]
        return np.array(recognizer.classes, object)[found]

    def right(self, recognizer: Recognizer) -> np.ndarray:
        """Tells of each image whether its class is predicted, bool `[N]`."""
        return self.predictions(recognizer) == self.classes


def _shards(folder: str) -> Sequence[str]:
    return list(Embeddings(folder).shard_rows)


@dataclasses.dataclass(frozen=True)
class Draw:
    """What a head says of the test images in one draw, each bool `[N]`.

    Attributes:
        is_new: whether the image is of a class that was kept out.
        before: right without the new classes.
        after: right with them.
        trained: right where all classes are trained.
    """

    is_new: np.ndarray
    before: np.ndarray
    after: np.ndarray
    trained: np.ndarray


def _new(right: np.ndarray, draw: Draw) -> float:
    return float(right[draw.is_new].mean())


def _old(right: np.ndarray, draw: Draw) -> float:
    return float(right[~draw.is_new].mean())


_FIGURES: dict[str, Callable[[Draw], float]] = {
    "new, added by name": lambda draw: _new(draw.after, draw),
    "new, trained": lambda draw: _new(draw.trained, draw),
    "new, added - trained": lambda draw: _new(draw.after, draw) - _new(draw.trained, draw),
    "old, before": lambda draw: _old(draw.before, draw),
    "old, after": lambda draw: _old(draw.after, draw),
    "old, after - before": lambda draw: _old(draw.after, draw) - _old(draw.before, draw),
    "old, all trained": lambda draw: _old(draw.trained, draw),
    "harmonic mean": lambda draw: new_classes.harmonic_mean(_new(draw.after, draw), _old(draw.after, draw)),
}
_WITHOUT_NAMES = ("new, trained", "old, before", "old, all trained")


def _table(head: str, draws: Sequence[Draw]) -> None:
    """Prints each figure of a head: mean of the draws, interval, each draw; in percent."""
    rng, count = np.random.default_rng(0), len(draws[0].is_new)
    samples = [rng.integers(count, size=count) for _ in range(_RESAMPLES)]
    for name in _WITHOUT_NAMES if not draws[0].after.any() else _FIGURES:
        of, each = _FIGURES[name], [100 * _FIGURES[name](draw) for draw in draws]
        resampled = [100 * np.mean([of(_sampled(draw, rows)) for draw in draws]) for rows in samples]
        low, high = bootstrap.interval(np.array(resampled))
        shown = ", ".join(f"{value:.1f}" for value in each)
        print(f"| {head} | {name} | {np.mean(each):.1f} [{low:.1f}, {high:.1f}] | {shown} |", flush=True)


def _sampled(draw: Draw, rows: np.ndarray) -> Draw:
    return Draw(draw.is_new[rows], draw.before[rows], draw.after[rows], draw.trained[rows])


def _of_classes(task: Task, kept: np.ndarray) -> Task:
    """Returns the task of some classes alone, as if no list had ever named the others."""
    label = np.full(len(task.class_counts), -1, np.int32)
    label[kept] = np.arange(len(kept))

    def cut(split: Split) -> Split:
        rows = np.isin(split.labels, kept)
        parts = {field.name: getattr(split, field.name)[rows] for field in dataclasses.fields(split)}
        return Split(**{**parts, "labels": label[parts["labels"]]})

    return dataclasses.replace(
        task,
        splits={name: cut(split) for name, split in task.splits.items()},
        class_counts=task.class_counts[kept],
        class_names=[task.class_names[number] for number in kept],
        name_vectors={kind: vectors[kept] for kind, vectors in task.name_vectors.items()},
        fingerprint=manifest.fingerprint({"task": task.fingerprint, "classes": kept.tolist()}),
    )


def _train(config: Config, task: Task, workdir: str) -> None:
    """Trains the heads as `web-memory train` does, in a workdir that borrows everything else."""
    os.makedirs(workdir)
    for name in _READ:
        os.symlink(os.path.abspath(f"{config.places.root}/{name}"), f"{workdir}/{name}")
    config = dataclasses.replace(
        config, workdir=workdir, generation="", train=dataclasses.replace(config.train, heads=HEADS)
    )
    train, places = config.train, config.places
    with Stage("train", "steps", workdir) as stage:
        task, data, folder = trials.open_runs(places, config.seed, train, task, SPLITS)
        progress = trials.Progress(stage, sum(trials.lengths(train)))
        for name in HEADS:
            runs = trials.Runs(name, train, config.seed, task, data, folder, progress)
            chosen = runs.choose(runs.trials())
            for seed in train.seeds:
                runs.seed(chosen, seed)
            trained.keep(folder, name, chosen.point, task, config)


def _measure(workdir: str, head: str, test: Photographs, added: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns which images are right before and after classes are added; none after, if the head takes no names."""
    with Recognizer.open(workdir, head=head, seeds="all") as recognizer:
        before = test.right(recognizer)
        if head == "linear" or not added:
            return before, np.zeros_like(before)
        return before, test.right(recognizer.with_classes(added))


def main(argv: Sequence[str]) -> int:
    """Prints the table."""
    config, _, _ = options.parse(argv, str(__doc__).splitlines()[0])
    task = datasets.load(config.places, config.train)
    if class_names.KEYS not in task.name_vectors:
        print("zero_shot needs names in the space of the keys", file=sys.stderr)
        return 1
    names, count = task.class_names, len(task.class_names)
    test = Photographs.read(config.places.queries("test"), names)
    rng, found = np.random.default_rng(0), {head: [] for head in HEADS}
    with tempfile.TemporaryDirectory(prefix="web-memory-") as folder:
        _train(config, task, f"{folder}/all")
        whole = {head: _measure(f"{folder}/all", head, test, [])[0] for head in HEADS}
        for number in range(_DRAWS):
            out = np.sort(rng.choice(count, _NEW, replace=False))
            added, workdir = [names[label] for label in out], f"{folder}/{number}"
            _train(config, _of_classes(task, np.setdiff1d(np.arange(count), out)), workdir)
            for head in HEADS:
                before, after = _measure(workdir, head, test, added)
                found[head].append(Draw(np.isin(test.classes, added), before, after, whole[head]))
            images = int(task.class_counts[out].sum())
            print(f"draw {number}: {images} training images of {_NEW} classes: {'; '.join(added)}", file=sys.stderr)
    print("| head | test accuracy, % | mean of draws [95 %] | each draw |\n|---|---|---|---|")
    for head, draws in found.items():
        _table(head, draws)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
