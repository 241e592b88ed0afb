"""A task in memory that only neighbours can solve."""

import numpy as np

from model.data.datasets import Split, Task


def small_task(rows: int = 300, k: int = 8, classes: int = 4, dim: int = 24) -> Task:
    """Queries that say nothing of their label; of their neighbours the similar half says it in its text."""
    rng = np.random.default_rng(0)
    unit = lambda x: (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)  # noqa: E731
    names = unit(rng.normal(size=(classes, 16)))
    memory_labels = np.arange(400) % classes
    keys = unit(rng.normal(size=(400, dim)))
    splits = {}
    for split in ("train", "val", "test"):
        labels = rng.integers(classes, size=rows).astype(np.int32)
        relevant = np.stack([rng.choice(np.flatnonzero(memory_labels == c), k // 2) for c in labels])
        neighbors = np.concatenate([relevant, rng.integers(400, size=(rows, k // 2))], 1).astype(np.int32)
        scores = np.repeat([[0.9] * (k // 2) + [0.5] * (k // 2)], rows, 0).astype(np.float32)
        queries = unit(rng.normal(size=(rows, dim)))
        splits[split] = Split(np.arange(rows), queries, labels, neighbors, scores, np.ones((rows, k), bool))
    texts = unit(names[memory_labels] + 0.1 * rng.normal(size=(400, 16)))
    counts = np.bincount(splits["train"].labels, minlength=classes)
    return Task(splits, np.arange(400), keys, {"text": texts}, counts, ["c"] * classes, {}, "f")
