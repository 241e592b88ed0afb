"""What heads predict after all pairs of a class were taken out of the memory, without training.

    python -m benchmarks.taken_out --config=configs/two_tower.py --config.data=DATA --config.workdir=WORKDIR

For one class at a time, `web-memory reindex --remove` takes rows out of a copy of WORKDIR, which is only read itself;
recognisers that were open before follow. First go the rows whose captions name the class, then also the rows nearest to
its training images, ten of each image. Classes are drawn from those that at least 20 captions name. The others are all
other classes. "Prepared again" is a head with the same parameters, for which whitening, name prior and the rest that
heads make of the memory were made of the changed memory and its new lists, which needs the training images. Intervals
are 95 % bootstrap over test images of the mean of the classes. The output is in Markdown.
"""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence

import numpy as np

from benchmarks.new_classes import Photographs
from configs.base import Config
from index import Index, neighbors, reindex
from index.store import indexed_memory
from model.data import datasets, protocol
from model.data.datasets import Task
from model.measures import bootstrap
from model.recognition import trained
from model.recognizer import Recognizer
from model.training import preparation
from pipelines import mentions, options, storage
from pipelines.errors import UserError

_HEADS = ("mean_knn", "mam")
_CLASSES, _LEAST, _NEAR, _RESAMPLES = 5, 20, 10, 2000
_STATES = ("before", "named pairs out", "near pairs out, too")
_AGAIN = ", prepared again"
_ROWS = (*_HEADS, *(f"{head}{_AGAIN}" for head in _HEADS))
_BEAM = ("--runner=FnApiRunner", "--no_compact")


def _naming(config: Config, names: Sequence[str]) -> list[np.ndarray]:
    """Returns for each class the ids of the indexed rows whose captions name it."""
    memory = indexed_memory.open_memory(config.places.memory, Index.open(config.places.index))
    phrases = [set(mentions.synonyms(name)) for name in names]
    finder = mentions.Mentions(set().union(*phrases))
    found: list[list[int]] = [[] for _ in names]
    for shard in memory.shard_rows:
        for row in memory.read(shard, ["id", "caption"]).to_pylist():
            said = finder.of(row["caption"] or "")
            for label, wanted in enumerate(phrases):
                if said & wanted:
                    found[label].append(row["id"])
    return [np.array(ids, np.int64) for ids in found]


def _near(task: Task, label: int) -> np.ndarray:
    """Returns the ids of the rows nearest to the training images of a class."""
    train = task.splits["train"]
    rows, mask = (array[train.labels == label, :_NEAR] for array in (train.neighbors, train.mask))
    return task.memory_ids[np.unique(rows[mask])]


def _copy(config: Config, folder: str) -> None:
    """Copies what `reindex` writes, and borrows the trained heads."""
    os.makedirs(folder)
    for path in pathlib.Path(config.places.root).iterdir():
        if path.name in ("memory", "index", "queries"):
            shutil.copytree(path, f"{folder}/{path.name}")
        elif path.suffix == ".parquet":
            shutil.copy(path, folder)
    os.symlink(os.path.abspath(config.places.runs), f"{folder}/runs")


def _remove(argv: Iterable[str], workdir: str, ids: np.ndarray) -> None:
    """Runs `web-memory reindex --remove`; a `UserError` if it fails."""
    asked = f"{workdir}.remove.txt"
    pathlib.Path(asked).write_text("\n".join(map(str, ids.tolist())))
    others = [arg for arg in argv if not arg.startswith("--config.workdir")]
    with contextlib.redirect_stdout(sys.stderr):
        if reindex.main([*others, f"--config.workdir={workdir}", f"--remove={asked}", *_BEAM]):
            raise UserError(f"{workdir}: rows could not be removed")


def _prepared_again(argv: Iterable[str], config: Config, workdir: str) -> str:
    """Returns a workdir beside a changed one, with what heads prepare made again of the changed memory."""
    others = [arg for arg in argv if not arg.startswith("--config.workdir")]
    with contextlib.redirect_stdout(sys.stderr):
        if neighbors.main([*others, f"--config.workdir={workdir}", _BEAM[0]]):
            raise UserError(f"{workdir}: neighbours could not be looked up")
    again = f"{workdir}.again"
    shutil.rmtree(again, ignore_errors=True)
    os.makedirs(again)
    for entry in os.scandir(workdir):
        if entry.name != "runs":
            os.symlink(entry.path, f"{again}/{entry.name}")
    runs = trained.find_runs(workdir)
    copied = f"{again}/runs/{os.path.basename(runs)}"
    shutil.copytree(runs, copied, ignore=shutil.ignore_patterns("tables", "tensorboard", "checkpoints"))
    changed = dataclasses.replace(config, workdir=workdir)
    task = protocol.load(changed.places, config.protocol, config.queries, config.train)
    task = preparation.prepare(task, config.train)
    for head in _HEADS:
        trained.keep(copied, head, storage.read_json(f"{runs}/{head}/chosen.json")["point"], task, changed)
    return again


def _measure(
    argv: Sequence[str], config: Config, workdir: str, test: Photographs, takedowns: Sequence[np.ndarray]
) -> dict[str, list[np.ndarray]]:
    """Returns for each head which test images are right, before and after each takedown."""
    with contextlib.ExitStack() as opened:
        recognizers = {
            head: opened.enter_context(Recognizer.open(workdir, head=head, seeds="best", follow=True))
            for head in _HEADS
        }
        right = {head: [test.right(recognizer)] for head, recognizer in recognizers.items()}
        right |= {f"{head}{_AGAIN}": list(hits) for head, hits in right.items()}
        for ids in takedowns:
            _remove(argv, workdir, ids)
            again = _prepared_again(argv, config, workdir)
            for head, recognizer in recognizers.items():
                right[head].append(test.right(recognizer))
                with Recognizer.open(again, head=head, seeds="best") as other:
                    right[f"{head}{_AGAIN}"].append(test.right(other))
    return right


def _shown(sides: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> str:
    """Returns the mean over classes of the accuracy on some images of each, with its interval; in percent."""
    rng, count = np.random.default_rng(0), len(sides[0])

    def mean(rows: np.ndarray) -> float:
        return float(100 * np.mean([hits[rows][side[rows]].mean() for side, hits in zip(sides, right, strict=True)]))

    low, high = bootstrap.interval(np.array([mean(rng.integers(count, size=count)) for _ in range(_RESAMPLES)]))
    return f"{mean(np.arange(count)):.1f} [{low:.1f}, {high:.1f}]"


def main(argv: Sequence[str]) -> int:
    """Prints the tables."""
    config, _, _ = options.parse(argv, str(__doc__).splitlines()[0])
    task = datasets.load(config.places, config.train)
    names = task.class_names
    naming, test = _naming(config, names), Photographs.read(config.places.queries("test"), names)
    often = np.flatnonzero([len(ids) >= _LEAST for ids in naming])
    drawn = np.sort(np.random.default_rng(0).choice(often, min(_CLASSES, len(often)), replace=False))
    found, sides = [], [test.classes == names[label] for label in drawn]
    print("| class | state | pairs out | " + " | ".join(f"{head}: class, others" for head in _ROWS) + " |")
    print("|---|---|---|" + "---|" * len(_ROWS))
    for label, own in zip(drawn, sides, strict=True):
        takedowns = [naming[label], np.union1d(naming[label], _near(task, label))]
        with tempfile.TemporaryDirectory(prefix="web-memory-") as folder:
            _copy(config, f"{folder}/out")
            found.append(_measure(argv, config, f"{folder}/out", test, takedowns))
        for number, state in enumerate(_STATES):
            of_heads = (found[-1][head][number] for head in _ROWS)
            cells = " | ".join(f"{100 * hits[own].mean():.1f}, {100 * hits[~own].mean():.2f}" for hits in of_heads)
            out = len(takedowns[number - 1]) if number else 0
            print(f"| {names[label]} | {state} | {out} | {cells} |", flush=True)
    print("\n| head | state | class, % [95 %] | others, % [95 %] |\n|---|---|---|---|")
    for head in _ROWS:
        for number, state in enumerate(_STATES):
            right = [of_class[head][number] for of_class in found]
            print(f"| {head} | {state} | {_shown(sides, right)} | {_shown([~own for own in sides], right)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
