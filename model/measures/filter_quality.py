"""How well attention filters: how much of its weight neighbours of the query's class have.

`relevance` decides which neighbours those are; this module only compares weights with its marks.
"""

import dataclasses
from typing import Any

import numpy as np
import pyarrow.compute as pc

from model.measures import relevance
from pipelines import schemas
from pipelines.manifest import Neighbors


@dataclasses.dataclass(frozen=True)
class Lists:
    """The neighbour lists of a split, with the relevance of each neighbour.

    Attributes:
        relevant: whether a neighbour is about the query's class, bool `[N, K]`.
        scores: cosine of query and key, float32 `[N, K]`.
        mask: false where a list is padded, bool `[N, K]`.
    """

    relevant: np.ndarray
    scores: np.ndarray
    mask: np.ndarray

    @classmethod
    def load(cls, lists: Neighbors, split: str, class_names: list[str]) -> "Lists":
        """Reads the lists and the captions and labels of the rows that they name."""
        memory, table = lists.memory(["id", "caption", "label"]), lists.split(split)
        ids = schemas.to_matrix(table["neighbor_ids"])
        mask = ids >= 0
        rows = np.where(mask, np.searchsorted(memory["id"].to_numpy(), ids), 0)
        labels = pc.fill_null(memory["label"], -1).to_numpy()
        if not memory.num_rows:
            return cls(np.zeros(ids.shape, bool), np.zeros(ids.shape, np.float32), mask)
        named = relevance.named_classes(memory["caption"].to_pylist(), class_names)
        marks = relevance.relevant(rows, table["label"].to_numpy(), named, len(class_names), labels)
        return cls(marks & mask, np.where(mask, schemas.to_matrix(table["scores"]), 0).astype(np.float32), mask)

    @property
    def shares(self) -> np.ndarray:
        """Share of relevant neighbours in each list, float64 `[N]`; 0 of an empty one."""
        return self.relevant.sum(axis=1) / np.maximum(self.mask.sum(axis=1), 1)

    def first(self, k: int) -> "Lists":
        """Returns the lists cut to their first `k` places."""
        return Lists(self.relevant[:, :k], self.scores[:, :k], self.mask[:, :k])


def row_aucs(weights: np.ndarray, relevant: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns the area under the ROC of each row's weights as a detector of its relevant entries.

    That is the probability that a relevant entry has a larger weight than another one, ties counting half (Hanley and
    McNeil, 1982; by mid-ranks).

    Args:
        weights: `[N, K]`.
        relevant: bool `[N, K]`.
        mask: false for entries that do not count, `[N, K]`.

    Returns:
        float64 `[N]`, NaN for rows that have no relevant entry or no other.
    """
    count = len(weights)
    row, column = np.nonzero(mask)
    if not len(row):
        return np.full(count, np.nan)
    weight, mark = weights[row, column], relevant[row, column]
    order = np.lexsort((weight, row))
    row, weight, mark = row[order], weight[order], mark[order]
    # The mid-rank of a run of equal weights is the mean of the ranks that its entries take together.
    first = np.concatenate([[True], (row[1:] != row[:-1]) | (weight[1:] != weight[:-1])])
    run, begins = np.cumsum(first) - 1, np.flatnonzero(first)
    sizes = np.diff(np.append(begins, len(row)))
    ranks = (begins + (sizes + 1) / 2)[run] - np.searchsorted(row, row)
    positives = np.bincount(row, weights=mark, minlength=count)
    negatives = np.bincount(row, minlength=count) - positives
    above = np.bincount(row, weights=ranks * mark, minlength=count) - positives * (positives + 1) / 2
    defined = (positives > 0) & (negatives > 0)
    return np.divide(above, positives * negatives, out=np.full(count, np.nan), where=defined)


def _aucs(weights: np.ndarray, lists: Lists) -> dict[str, float | None]:
    pooled = row_aucs(weights.reshape(1, -1), lists.relevant.reshape(1, -1), lists.mask.reshape(1, -1))[0]
    rows = row_aucs(weights, lists.relevant, lists.mask)
    defined = rows[~np.isnan(rows)]
    # JSON has no NaN.
    return {
        "auc": float(defined.mean()) if len(defined) else None,
        "auc_pooled": None if np.isnan(pooled) else float(pooled),
    }


def measure(weights: np.ndarray, lists: Lists) -> dict[str, float | None]:
    """Returns how well weights `[N, K]` find the relevant neighbours.

    Returns:
        `share`: of relevant neighbours in the lists, mean over queries; `mass`: attention on them;
        `mass_over_share`: ratio of these two means; `mass_over_share_per_query`: the mean of each query's ratio, where
        it has a relevant neighbour; `auc`: area under the ROC, mean over queries that have relevant and other
        neighbours; `auc_pooled`: that of all neighbours of all queries together. None where nothing can be measured.
    """
    mass, share = (weights * lists.relevant).sum(axis=1, dtype=np.float64), lists.shares
    some = share > 0
    return {
        "share": float(share.mean()),
        "mass": float(mass.mean()),
        "mass_over_share": float(mass.mean() / share.mean()) if some.any() else None,
        "mass_over_share_per_query": float((mass[some] / share[some]).mean()) if some.any() else None,
        **_aucs(weights, lists),
    }


def describe(lists: Lists, scale: float) -> dict[str, Any]:
    """Describes the lists, and measures how well plain similarity finds the relevant neighbours.

    Args:
        lists: of the queries.
        scale: factor applied to the cosines.

    Returns:
        `scale`, `queries`, `queries_with_relevant`, and the results of `measure` for softmax(scale * cosine), the start
        of attention if its similarity is the cosine; `auc_pooled` is that of the cosines themselves.
    """
    shifted = scale * (lists.scores - lists.scores.max(axis=1, keepdims=True, initial=-1))
    exponents = np.exp(shifted, dtype=np.float64) * lists.mask
    weights = exponents / np.maximum(exponents.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return {
        "scale": scale,
        "queries": len(lists.relevant),
        "queries_with_relevant": int(np.any(lists.relevant, axis=1).sum()),
        **measure(weights, lists),
        **_aucs(lists.scores, lists),
    }
