"""What an ablation starts from: the configuration that is varied, and the training of one value."""

import dataclasses
import functools

from configs.base import Config, Train
from configs.schema.search import KEY
from model.data import datasets, memories
from model.data.datasets import Task
from model.data.memories import Memory
from pipelines.errors import UserError
from pipelines.manifest import Embeddings, Neighbors


@dataclasses.dataclass(frozen=True)
class Point:
    """The training of one value.

    Attributes:
        train: its settings.
        task: with its neighbour lists.
        rows: of the memory that is searched.
        victim: the class that the memory was rewritten to harm; None for none.
        made_of: fingerprint of a file or folder that the value names, and that may change; empty for none.
    """

    train: Train
    task: Task
    rows: int
    victim: int | None = None
    made_of: str = ""


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
        self.lists = Neighbors.open(self.places.neighbors)
        by = {config.neighbors.by, self.lists.identity.get("by", KEY)} - {KEY}
        if by:
            raise UserError(
                f"{self.places.neighbors}: the lists there or --config.neighbors.by are by {by.pop()}; ablations "
                f"search the memory by keys alone: give --config.neighbors.by={KEY} and a workdir with such lists"
            )
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
