"""Finds the classes that the captions of a memory name, as a Beam job: a worker reads one segment after another.

Nothing travels between workers but the numbers of segments; the launcher adds up their counts (`layout`).
"""

from array import array
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pipelines import mentions, schemas
from pipelines.captions.layout import ConceptJob
from pipelines.runner import Runner


def run(job: ConceptJob, runner: Runner) -> None:
    """Reads the segments that are not done, then completes the folder.

    Raises:
        UserError: as a worker raised it, such as for a damaged shard.
    """
    missing = [segment for segment in range(len(job.segments)) if not job.is_done(segment)]
    shard_rows = job.open_memory().shard_rows
    rows = [sum(shard_rows[shard] for shard in shards) for shards in job.segments]

    def measure() -> tuple[float, int]:
        done = sum(rows[segment] for segment in range(len(rows)) if job.is_done(segment))
        return done / max(sum(rows), 1), done

    def build(pipeline: beam.Pipeline) -> None:
        _ = (
            pipeline
            | "Segments" >> beam.Create(missing)
            | "Spread" >> beam.Reshuffle()
            | "Read captions" >> beam.ParDo(ReadSegment(job))
        )

    if missing:
        runner.run(build, measure, "reading the first captions", unit="captions")
    job.finish()


class ReadSegment(beam.DoFn):
    """Finds the classes that the captions of a segment name."""

    def __init__(self, job: ConceptJob) -> None:
        """Keeps what workers need."""
        self._job = job

    def setup(self) -> None:
        """Opens the memory, and prepares the names."""
        self._memory, self._names = self._job.open_memory(), mentions.Names(self._job.names)

    def process(self, segment: int) -> None:
        """Writes the rows, the counts and the marker of a segment."""
        found = _Segment(self._job, segment, self._names)
        for shard in self._job.segments[segment]:
            for batch in self._memory.read(shard, ["id", "caption"]).to_batches(schemas.ROW_GROUP_ROWS):
                found.add(batch.column("id").to_pylist(), batch.column("caption").to_pylist())
        found.finish()


class _Segment:
    """What was found in a segment so far."""

    def __init__(self, job: ConceptJob, number: int, names: mentions.Names) -> None:
        self._job, self._number, self._names = job, number, names
        self._of_names, self._of_classes = np.zeros(len(names.names), np.int64), np.zeros(names.classes, np.int64)
        self._captions = self._named = 0
        self._files: list[dict[str, Any]] = []
        self._labels, self._ids, self._sizes = array("i"), array("q"), array("i")

    def add(self, ids: list[int], captions: list[str | None]) -> None:
        """Takes rows of the memory, ascending by id."""
        places, before = array("q"), self._named
        for id_, caption in zip(ids, captions, strict=True):
            if caption and (found := self._names.find(caption)):
                classes = self._names.classes_of(found)
                places.extend(found)
                self._labels.extend(classes)
                self._ids.extend([id_] * len(classes))
                self._sizes.extend([len(classes)] * len(classes))
                self._named += 1
                if len(self._ids) >= self._job.part_rows:
                    self._write()
        self._captions += sum(map(bool, captions))
        if self._named > before:
            self._of_names += np.bincount(np.array(places), minlength=len(self._of_names))

    def finish(self) -> None:
        """Writes the rest of the rows, the counts and the marker."""
        self._write()
        facts = {"captions": self._captions, "named": self._named}
        counts = np.concatenate([self._of_names, self._of_classes])
        self._job.write_segment(self._number, self._files, facts, counts)

    def _write(self) -> None:
        """Writes the rows that are held, by class, then by id, if there are any."""
        labels, ids, sizes = np.array(self._labels), np.array(self._ids), np.array(self._sizes)
        if not len(ids):
            return
        self._labels, self._ids, self._sizes = array("i"), array("q"), array("i")
        self._of_classes += np.bincount(labels, minlength=len(self._of_classes))
        # They came ascending by id.
        order = np.argsort(labels, kind="stable")
        columns = [pa.array(column[order]) for column in (labels, ids, sizes)]
        table = pa.Table.from_arrays(columns, schema=schemas.CONCEPT_ROWS)
        self._files.append(self._job.write_rows(self._number, len(self._files), table))
