"""What a head is: a Flax module that turns a batch into logits, and the record that the registry lists it by."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from configs.base import Train
from model.data.batch import Batch
from model.data.datasets import Task
from pipelines.errors import UserError


class NewClasses(NamedTuple):
    """Classes that are known by their names alone.

    Attributes:
        names: embedded, float32 `[n, V]`, unit length.
        keys: of all memory rows, `[M, D]`.
        texts: their text values, `[M, V]`.
        train: the settings that the head was trained with.
    """

    names: np.ndarray
    keys: np.ndarray
    texts: np.ndarray
    train: Train


@dataclasses.dataclass(frozen=True)
class Head:
    """One kind of head. `model.heads.registry` lists all of them.

    The module that `build` returns is called as `module(batch, rate, rng)` and returns an `Output` with logits
    `[B, C]`: `batch` has B queries `[B, D]` and their K neighbours `[B, K, ..]` (`model.data.batch.Batch`), `rate` is
    the dropout of the classifier's input, and `rng` the key of a training step, None for a prediction.

    Attributes:
        name: its name in `train.heads`.
        build: `(train, num_classes, batch)` to the module for C classes; the batch has the shapes to come.
        needs_neighbors: whether it reads keys, values or scores of the neighbours. If not, they need not be gathered.
        needs_text: whether it reads text values, so that `train.values` must contain `text`.
        attends: whether it learns how much each neighbour counts, so that its weights `[B, K]` are worth a picture.
        prepare: `(task, train)` to the arrays that it needs besides lists and memory, a NamedTuple; None for nothing.
            It is called once before the first step, and its result is `batch.prepared`. Heads with the same function
            share the result.
        of_labels: whether that result depends on the labels of the training images, so that it is made again for each
            division of train and val.
        of_rows: whether that result has an entry for each row of the memory, so that it reads `batch.memory_rows`.
        prepared: the type of that result, so that it can be kept with the head.
        names_kind: of a head that takes classes that were not trained, which of `Task.name_vectors` it reads.
        unlabelled: of such a head, its parameters to those with which a class scores as if no image of it were known.
        extend: of such a head, parameters, what it prepared, and the new classes, to both with the new classes behind
            the others.
        trained: whether steps train it; if not, it has its prediction before the first step.
        space: the fields of `Train` that its trials vary beside learning rate, weight decay and dropout, each with its
            values.
        draw: `(train, batch, labels, done, rng)` to the batch and the labels that a step trains with instead; None for
            those that were drawn. `labels` are int32 `[B]`, and may become shares of each class `[B, C]`; `done` is the
            share of the steps that are done.
        check: `(task, train)`, called before `prepare`; raises a `UserError` if the head cannot learn the task.
        about: what it predicts from, half a sentence for the readers of a report.
    """

    name: str
    build: Callable[[Train, int, Batch], nn.Module]
    needs_neighbors: bool
    needs_text: bool
    attends: bool = False
    prepare: Callable[[Task, Train], Any] | None = None
    prepared: type | None = None
    of_labels: bool = False
    of_rows: bool = False
    names_kind: str = ""
    unlabelled: Callable[[Any], Any] | None = None
    extend: Callable[[Any, Any, NewClasses], tuple[Any, Any]] | None = None
    draw: Callable[[Train, Batch, jax.Array, jax.Array, jax.Array], tuple[Batch, jax.Array]] | None = None
    check: Callable[[Task, Train], None] | None = None
    trained: bool = True
    space: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    about: str = ""


def check_names(name: str) -> Callable[[Task, Train], None]:
    """Returns the `check` of a head that reads the names of the classes."""

    def check(task: Task, train: Train) -> None:
        if "text" not in task.name_vectors:
            raise UserError(
                f"--config.train.heads: {name} reads the names of the classes and none are embedded; set "
                "--config.class_names and run web-memory embed again with a text encoder"
            )

    return check


def temper(module: nn.Module, logits: jax.Array) -> jax.Array:
    """Returns logits times a learned positive factor, 1 at first: of a head with nothing else to learn."""
    return jnp.exp(module.param("factor", nn.initializers.zeros, ())) * logits


def init(head: nn.Module, batch: Batch, seed: jax.Array | int) -> dict:
    """Returns the first parameters of a head for batches of this shape."""
    return head.init(jax.random.key(seed), batch, 0.0, None)["params"]


def count_parameters(head: nn.Module, batch: Batch) -> int:
    """Returns the number of parameters, without making them."""
    shapes = jax.eval_shape(lambda b: init(head, b, 0), batch)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))
