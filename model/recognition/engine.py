"""From keys to predictions: neighbours from the index, their rows from the memory, then the head, in batches.

Predictions have the bits of the trainer's own: the same jitted function (`trainer.predictor`) sees batches of the same
shape, and what it reads is standardised by the same functions. A short batch is filled up.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa

from index import Index
from model import objectives
from model.data import parallel, tables
from model.data.tables import Tables
from model.heads import registry
from model.measures import metrics
from model.prepare import whitening
from model.recognition.memory import KEY, Memory
from model.recognition.results import Neighbor
from model.recognition.trained import Trained
from model.training.trainer import predictor
from pipelines import schemas
from pipelines.errors import UserError

# Photographs whose neighbours are put on the device at a time, if there are no more: a second shape to compile.
_FEW = 8


@dataclasses.dataclass(frozen=True)
class Lists:
    """The neighbours of N photographs, as a head reads them.

    Attributes:
        ids: of memory rows, int64 `[N, K]`, -1 pads.
        places: their rows in the memory, `[N, K]`; 0 where `mask` is false.
        scores: cosines or whitened cosines, float32 `[N, K]`; 0 where `mask` is false.
        mask: bool `[N, K]`, false where the list is padded.
    """

    ids: np.ndarray
    places: np.ndarray
    scores: np.ndarray
    mask: np.ndarray

    def take(self, rows: np.ndarray) -> "Lists":
        """Returns the lists of some photographs, by number."""
        return Lists(self.ids[rows], self.places[rows], self.scores[rows], self.mask[rows])


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What a head says of N photographs.

    Attributes:
        classes: numbers of the most probable classes, int32 `[N, top]`.
        probabilities: of them, float32 `[N, top]`.
        weights: of the neighbours, float32 `[N, K]`; `[N, 0]` of a head that reads none.
    """

    classes: np.ndarray
    probabilities: np.ndarray
    weights: np.ndarray


class Engine:
    """One head with the parameters of its seeds on the device; any number of threads may call it.

    Attributes:
        trained: the head.
    """

    def __init__(self, trained: Trained, shift: np.ndarray | None = None) -> None:
        """Builds the head; nothing is compiled before the first prediction.

        Args:
            trained: the head.
            shift: added to the scores of each class, float32 `[C]`; None for nothing.
        """
        self.trained, self._shift = trained, shift
        self._dims = {column: trained.columns[column].dim for column in self._columns()}
        self._prepared = parallel.replicate(
            {} if trained.prepared is None else {trained.head: jax.tree.map(jnp.asarray, trained.prepared)}
        )
        self._params = [parallel.replicate(params) for params in trained.params.values()]
        dim, classes = self._dims[KEY], len(trained.classes)
        nothing = np.zeros((1, trained.k), np.int32)
        rows = {column: np.zeros((1, width), np.float32) for column, width in self._dims.items()}
        lists = {"neighbors": nothing, "memory_rows": nothing, "scores": nothing.astype(np.float32)}
        empty = self._tables(np.zeros((1, dim), np.float32), {**lists, "mask": nothing > 0}, rows)
        head = registry.get(trained.head).build(
            trained.train, classes, empty.gather(jnp.zeros(1, jnp.int32), trained.head)
        )
        facts = objectives.Facts(trained.class_counts, np.zeros((0, dim), np.float32), np.zeros(0, np.int32))
        self._predict = predictor(trained.head, head, objectives.build(trained.train, facts))
        self._check(empty, classes, dim)

    def _check(self, empty: Tables, classes: int, dim: int) -> None:
        """Raises a `UserError` if the arrays are not those of this head; nothing is computed."""
        trained, reason = self.trained, ""
        try:
            for params in self._params:
                scores, _ = jax.eval_shape(self._predict, params, empty, jnp.zeros(1, jnp.int32))
                if scores.shape[1:] != (classes,):
                    reason = f"they score {scores.shape[1:]} classes, not {classes}"
        except Exception as error:
            # Flax and JAX raise errors of many kinds over shapes and names.
            reason = str(error).partition("\n")[0][:200]
        if trained.whitening is not None and trained.whitening.shape != (dim + 1, dim):
            reason = f"the whitening is {list(trained.whitening.shape)}, not {[dim + 1, dim]}"
        if reason:
            raise UserError(f"head {trained.head}: its arrays are not those of such a head ({reason}); train it again")

    def _columns(self) -> list[str]:
        return [KEY, *(f"value_{kind}" for kind in self.trained.train.values)]

    def look_up(
        self, index: Index, memory: Memory, keys: np.ndarray, images: Sequence[bytes | None] | None = None
    ) -> Lists:
        """Returns the neighbours that `web-memory neighbors` would give images with these keys.

        Args:
            index: of the memory.
            memory: the rows.
            keys: as they are stored, `[N, D]`.
            images: SHA-256 of the encoded images; rows with the same image are left out if the head was trained so.
                None for an image without bytes.
        """
        trained = self.trained
        field = pa.field("", pa.list_(schemas.DTYPES[keys.dtype.name], keys.shape[1]))
        queries = schemas.unit_keys(schemas.fixed_list(keys, field), trained.columns[KEY], "the photographs")
        own = None
        if trained.excludes_same_image and images is not None:
            own = np.array([image or b"" for image in images], "S32")
        hits = index.search(queries, trained.list_k, own)
        return self.lists(memory, keys, hits.ids, hits.scores)

    def lists(self, memory: Memory, keys: np.ndarray, ids: np.ndarray, scores: np.ndarray) -> Lists:
        """Returns neighbours as the head reads them.

        Args:
            memory: the rows.
            keys: of the photographs, as they are stored, `[N, D]`.
            ids: of their neighbours, -1 pads, int64 `[N, k or more]`.
            scores: cosines, of the same shape.
        """
        trained = self.trained
        ids, mask = ids[:, : trained.k], ids[:, : trained.k] >= 0
        places = np.zeros(ids.shape, np.int64)
        places[mask] = memory.places(ids[mask])
        scores = np.where(mask, scores[:, : trained.k], 0).astype(np.float32)
        if trained.whitening is not None and trained.reads_memory:
            scores = _whitened(trained.whitening, memory, keys, places, mask)
        return Lists(ids, places, scores, mask)

    def scores(self, memory: Memory, keys: np.ndarray, lists: Lists) -> list[tuple[np.ndarray, np.ndarray]]:
        """Returns for each seed the scores float32 `[N, C]` and the neighbours' weights float32 `[N, K]`.

        Args:
            memory: the rows.
            keys: as they are stored, `[N, D]`.
            lists: of the same photographs.
        """
        size, count = self.trained.train.batch_size, len(keys)
        found: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in self._params]
        rows = jnp.arange(size, dtype=jnp.int32)
        for first in range(0, count, size):
            part = np.arange(first, min(first + size, count))
            batch = self._batch(memory, keys[part], lists.take(part))
            for params, of_seed in zip(self._params, found, strict=True):
                scores, weights = (np.asarray(array, np.float32) for array in self._predict(params, batch, rows))
                of_seed.append((scores[: len(part)], weights[: len(part)]))
        joined = [(np.concatenate([s for s, _ in each]), np.concatenate([w for _, w in each])) for each in found]
        return joined if self._shift is None else [(scores + self._shift, weights) for scores, weights in joined]

    def predict(self, memory: Memory, keys: np.ndarray, lists: Lists, top: int = metrics.TOP) -> Outputs:
        """Predicts; arguments as those of `scores`, and the number of classes to name."""
        if not len(keys):
            nothing = np.zeros((0, min(top, len(self.trained.classes))), np.float32)
            return Outputs(nothing.astype(np.int32), nothing, np.zeros((0, self.trained.k), np.float32))
        of_seeds = self.scores(memory, keys, lists)
        if len(of_seeds) == 1:
            return Outputs(*metrics.top_classes(of_seeds[0][0], top), of_seeds[0][1])
        weights = np.stack([weights for _, weights in of_seeds]).mean(0)
        mean = np.mean([_softmax(scores) for scores, _ in of_seeds], axis=0)
        classes = np.argsort(-mean, axis=1, kind="stable")[:, :top].astype(np.int32)
        return Outputs(classes, np.take_along_axis(mean, classes, 1).astype(np.float32), weights)

    def influence(
        self, memory: Memory, keys: np.ndarray, lists: Lists, outputs: Outputs, asked: np.ndarray | None = None
    ) -> np.ndarray:
        """Returns how much less probable the predicted class is without each neighbour, float32 `[N, K]`.

        Args:
            memory: the rows.
            keys: as they are stored, `[N, D]`.
            lists: of the same photographs.
            outputs: from `predict`.
            asked: bool `[N, K]`, of which neighbours to compute it, the others have 0; None for all.
        """
        found = np.zeros(lists.mask.shape, np.float32)
        if not self.trained.reads_memory or not len(keys):
            return found
        owner, neighbor = np.nonzero(lists.mask if asked is None else lists.mask & asked)
        size = self.trained.train.batch_size
        for first in range(0, len(owner), size):
            of, without = owner[first : first + size], neighbor[first : first + size]
            left = lists.take(of)
            left.mask[np.arange(len(of)), without] = False
            predicted = np.arange(len(of)), outputs.classes[of, 0]
            then = [_softmax(scores)[predicted] for scores, _ in self.scores(memory, keys[of], left)]
            found[of, without] = outputs.probabilities[of, 0] - np.mean(then, axis=0)
        return found

    def _batch(self, memory: Memory, keys: np.ndarray, lists: Lists) -> Tables:
        """Returns the tables of a batch, filled up to the trainer's batch size."""
        trained, count = self.trained, len(keys)
        size, k = trained.train.batch_size, trained.k
        queries, scores = np.zeros((size, keys.shape[1]), np.float32), np.zeros((size, k), np.float32)
        places, mask = np.zeros((size, k), np.int32), np.zeros((size, k), bool)
        queries[:count], scores[:count], mask[:count] = keys, lists.scores, lists.mask
        read = lists.places if trained.reads_memory else np.zeros_like(lists.places)
        unique, back = np.unique(read, return_inverse=True)
        places[:count] = back.reshape(count, k)
        memory_rows = np.full((size, k), -1, np.int32)
        memory_rows[:count] = _rows_of(trained.memory_ids, lists.ids)
        # Few sizes, each of which is compiled.
        room = next(rows * k for rows in (min(_FEW, size), -(-size // 4), size) if rows * k >= len(unique))
        rows = {}
        for column, dim in self._dims.items():
            rows[column] = np.zeros((room, dim), jnp.dtype(trained.train.dtype))
            if len(memory.ids):
                rows[column][: len(unique)] = tables.standardize_rows(memory.read(column, unique), trained.train.dtype)
        lists_of = {"neighbors": places, "memory_rows": memory_rows, "scores": scores, "mask": mask}
        return self._tables(queries, lists_of, rows)

    def _tables(self, queries: np.ndarray, lists: dict[str, np.ndarray], rows: dict[str, np.ndarray]) -> Tables:
        arrays = {
            "queries": tables.standardize_rows(queries),
            "offsets": tables.offset_rows(queries),
            "labels": np.zeros(len(queries), np.int32),
        }
        return Tables(
            **parallel.replicate({**arrays, **lists}),
            keys=parallel.replicate(rows.pop(KEY)),
            values=parallel.replicate({name.removeprefix("value_"): matrix for name, matrix in rows.items()}),
            prepared=self._prepared,
        )


def neighbors(
    memory: Memory, lists: Lists, outputs: Outputs, influence: np.ndarray | None, row: int, most: int | None = None
) -> list[Neighbor]:
    """Returns the neighbours that a head read of a photograph, the largest weight first; none of a head without memory.

    Args:
        memory: the rows.
        lists: of N photographs.
        outputs: of the same photographs.
        influence: float32 `[N, K]`; None if it was not computed.
        row: of the photograph.
        most: number of neighbours; None for all.
    """
    if not outputs.weights.shape[1]:
        return []
    order = np.argsort(-outputs.weights[row], kind="stable")
    return [
        neighbor(
            memory,
            int(lists.ids[row, j]),
            int(lists.places[row, j]),
            float(lists.scores[row, j]),
            float(outputs.weights[row, j]),
            None if influence is None else float(influence[row, j]),
        )
        for j in order[lists.mask[row][order]][:most].tolist()
    ]


def neighbor(
    memory: Memory, id_: int, place: int, score: float, weight: float = 0.0, influence: float | None = None
) -> Neighbor:
    """Returns a row of the memory, by its id and place there, as people see it."""
    return Neighbor(id_, memory.captions[place].as_py(), memory.urls[place].as_py(), score, weight, influence)


def _rows_of(known: np.ndarray | None, ids: np.ndarray) -> np.ndarray:
    """Returns where ids are among those that a head knows, in ascending order; -1 for one that it does not know."""
    if known is None or not len(known):
        return np.full(ids.shape, -1, np.int32)
    places = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    return np.where(known[places] == ids, places, -1).astype(np.int32)


def _softmax(scores: np.ndarray) -> np.ndarray:
    """Returns probabilities float64 `[N, C]`."""
    exact = scores.astype(np.float64)
    exponents = np.exp(exact - exact.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)


def _whitened(matrix: np.ndarray, memory: Memory, keys: np.ndarray, places: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns the scores that `whitening.rescore` gives, float32 `[N, K]`."""
    queries = whitening.whitened(keys.astype(np.float32), matrix)
    unique, back = np.unique(places[mask], return_inverse=True)
    rows, owner = whitening.whitened(memory.read(KEY, unique), matrix), np.nonzero(mask)[0]
    scores = np.zeros(mask.shape, np.float32)
    scores[mask] = whitening.score(queries[owner], rows[back])
    return scores
