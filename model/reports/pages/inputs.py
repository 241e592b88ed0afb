"""What the pages are made from: the runs, their results, and what the workdir says of how they came about."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from configs.base import Config
from model.heads import registry
from model.measures import metrics
from model.reports.charts import COLORS
from model.reports.results import REFERENCES
from model.reports.runs import Runs
from model.training import run_files
from pipelines import storage
from pipelines.manifest import Embeddings, Neighbors

# Pictures of rows, as data URLs by container and member; a row whose picture cannot be read is left out. The first
# argument is the folder of embeddings that they are from: `memory` or a split.
Album = Callable[[str, Iterable[tuple[str, str]]], dict[tuple[str, str], str]]


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The results of one configuration.

    Attributes:
        config: the resolved configuration.
        flags: of the command line, which choose it.
        results: contents of `results.json`.
        found: the runs.
        lists: the neighbour lists that they were trained on.
        class_names: one for each class; numbers where the classes have no names.
        is_named: whether they have names.
        album: reads pictures again.
    """

    config: Config
    flags: tuple[str, ...]
    results: Mapping[str, Any]
    found: Runs
    lists: Neighbors
    class_names: list[str]
    is_named: bool
    album: Album

    @functools.cached_property
    def groups(self) -> np.ndarray:
        """The shot group of each class, `[C]`."""
        train = self.config.train
        return metrics.shot_groups(self.found.class_counts, train.many_over, train.few_under, train.shots)

    @functools.cached_property
    def class_tests(self) -> np.ndarray:
        """Test images of each class, `[C]`."""
        return np.bincount(self.found.labels, minlength=len(self.found.class_counts))

    @functools.cached_property
    def colors(self) -> dict[str, int]:
        """The colour of each head."""
        return {head: number % COLORS for number, head in enumerate(self.found.heads)}

    @functools.cached_property
    def chosen(self) -> dict[str, dict[str, Any]]:
        """What was chosen for each head from its trials (`chosen.json`); a head that has none is left out."""
        paths = {head: storage.join(self.found.folder, head, run_files.CHOSEN) for head in self.found.heads}
        return {head: run_files.read(path, run_files.CHOICE) for head, path in paths.items() if storage.exists(path)}

    @functools.cached_property
    def memory(self) -> Embeddings:
        """The embedded memory."""
        return Embeddings(self.config.places.memory)

    @property
    def listed(self) -> int:
        """Neighbours that the lists hold for an image, at most the rows of the memory."""
        return min(self.lists.k, self.memory.rows)

    def split(self, name: str) -> Embeddings:
        """Returns an embedded split."""
        return Embeddings(self.config.places.queries(name))

    @functools.cached_property
    def subject(self) -> str:
        """The head that the report is about: of those that learn attention the best on val, else of all others.

        Test decides nothing here, so that the headline is not the best of several draws.
        """
        heads = [head for head in self.found.heads if head in registry.HEADS]
        attending = [head for head in heads if registry.get(head).attends]
        reading = [head for head in heads if registry.get(head).needs_neighbors]
        baseline = next((name for name in REFERENCES if name in heads), "")
        others = [head for head in heads if head != baseline]
        candidates = attending or reading or others or self.found.heads
        return max(candidates, key=lambda head: self.results["val"].get(head, 0.0))

    @functools.cached_property
    def reference(self) -> str:
        """The head that it is compared with; empty if there is no other."""
        return next((name for name in REFERENCES if name in self.found.heads and name != self.subject), "")

    @property
    def reads_memory(self) -> bool:
        """Whether the head that the report is about reads neighbours."""
        return self.subject in registry.HEADS and registry.get(self.subject).needs_neighbors


def describe(head: str) -> str:
    """Returns what a head predicts from, half a sentence; empty if that is not known."""
    return registry.HEADS[head].about if head in registry.HEADS else ""
