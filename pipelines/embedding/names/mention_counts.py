"""Counts the captions of a memory that mention each of some phrases, as a Beam job: `[P]` counts for each shard, added.

A worker holds the captions of one shard. Counts are whole numbers, so neither workers nor their order change them.
"""

from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam
import numpy as np

from pipelines import schemas, storage
from pipelines.manifest import Embeddings
from pipelines.mentions import Mentions, Phrase
from pipelines.runner import Runner

_SHAPE = {"counts": [int]}


def count(memory: str, phrases: Sequence[Phrase], path: str, runner: Runner) -> dict[Phrase, int]:
    """Counts the captions of the rows that are not dropped.

    Args:
        memory: folder of the finished memory.
        phrases: to look for, P different ones.
        path: of a file on storage that all workers reach, which carries the counts and is removed.
        runner: of the command.

    Raises:
        UserError: as a worker raised it, such as for a damaged shard.
    """
    shards = list(Embeddings(memory).shard_rows)

    def build(pipeline: beam.Pipeline) -> None:
        _ = (
            pipeline
            | "Shards" >> beam.Create(shards)
            | "Spread" >> beam.Reshuffle()
            | "Count" >> beam.ParDo(CountShard(memory, phrases))
            | "Add" >> beam.CombinePerKey(_total)
            | "Write" >> beam.ParDo(WriteCounts(path))
        )

    storage.remove(path)
    runner.run(build, lambda: (float(storage.exists(path)), 0), "counting names in captions", "class names", "captions")
    counts = schemas.read_json(path, _SHAPE, "run web-memory embed again")["counts"]
    storage.remove(path)
    return dict(zip(phrases, counts, strict=True))


class CountShard(beam.DoFn):
    """Counts the captions of a shard."""

    def __init__(self, memory: str, phrases: Sequence[Phrase]) -> None:
        """Keeps what workers need."""
        self._memory, self._phrases = memory, list(phrases)

    def setup(self) -> None:
        """Opens the memory."""
        self._opened, self._mentions = Embeddings(self._memory), Mentions(self._phrases)
        self._places = {phrase: place for place, phrase in enumerate(self._phrases)}

    def process(self, shard: int) -> Iterator[tuple[str, np.ndarray]]:
        """Yields the captions that mention each phrase, int64 `[P]`, under the name of the memory."""
        counts = np.zeros(len(self._phrases), np.int64)
        for caption in self._opened.read(shard, ["caption"])["caption"]:
            counts[[self._places[phrase] for phrase in self._mentions.of(caption.as_py() or "")]] += 1
        yield self._memory, counts


def _total(counts: Iterable[np.ndarray]) -> np.ndarray:
    return np.sum(list(counts), axis=0)


class WriteCounts(beam.DoFn):
    """Writes the counts of all shards."""

    def __init__(self, path: str) -> None:
        """Keeps the file to write."""
        self._path = path

    def process(self, item: tuple[str, np.ndarray]) -> None:
        """Takes the sum of the counts of all shards."""
        storage.write_json(self._path, {"counts": item[1].tolist()})
