"""Which test images the gallery shows, with which neighbours, and how a head's prediction compares without memory."""

import dataclasses

import numpy as np

from model.heads import registry
from model.measures import kept
from model.reports.runs import Run, Runs

# Bounds of what is shown, so that the page opens at once.
MOST_IMAGES, MOST_NEIGHBORS, MOST_FILTERED = 2000, 16, 4


@dataclasses.dataclass(frozen=True)
class Compared:
    """The run that the gallery shows, and one of the same seed whose head reads no memory.

    Attributes:
        run: of a head with attention, if there is one.
        baseline: None if there is no other head without memory, or the head itself reads none.
    """

    run: Run
    baseline: Run | None

    @property
    def reads_memory(self) -> bool:
        """Whether neighbours decide anything."""
        return registry.get(self.run.head).needs_neighbors


@dataclasses.dataclass(frozen=True)
class Shown:
    """N test images and the S places of each list that are shown, the largest weight first.

    Attributes:
        images: numbers of the test images, ascending, int64 `[N]`.
        places: in the list of neighbours, -1 pads, int64 `[N, S]`.
        weights: float32 `[N, S]`; None if the head has none.
        kept: bool `[N, S]`; None likewise.
        listed: neighbours in the list, `[N]`.
        keeps: how many of them are kept, `[N]`; 0 likewise.
        kept_weight: what these weigh together, `[N]`; 0 likewise.
    """

    images: np.ndarray
    places: np.ndarray
    weights: np.ndarray | None
    kept: np.ndarray | None
    listed: np.ndarray
    keeps: np.ndarray
    kept_weight: np.ndarray


def choose(found: Runs) -> Compared:
    """Returns the first seed of the first head that attends, or else weighs, or else reads neighbours, or is there.

    The baseline is `linear`, or else the head without memory that is best on val.
    """
    heads = [name for name in found.heads if name in registry.HEADS]
    weighs = (name for name in heads if found.of(name)[0].attention() is not None)
    reads = [name for name in heads if registry.get(name).needs_neighbors]
    attends = (name for name in reads if registry.get(name).attends)
    run = found.of(next(attends, None) or next(weighs, None) or [*reads, *heads][0])[0]
    if run.head not in reads:
        return Compared(run, None)
    plain = [name for name in heads if name not in reads and not registry.get(name).needs_text]
    others = [one for name in plain for one in found.of(name) if one.seed == run.seed]
    others.sort(key=lambda one: (one.head != "linear", -one.result["val_accuracy"]["all"]))
    return Compared(run, others[0] if others else None)


def sample(count: int, seed: int, most: int = MOST_IMAGES) -> np.ndarray:
    """Returns the numbers of the test images that are shown, ascending: all, or as many as fit, drawn at random."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).permutation(count)[:most])


def show(images: np.ndarray, mask: np.ndarray, attention: np.ndarray | None, most: int = MOST_NEIGHBORS) -> Shown:
    """Chooses the neighbours to show: of a long list the largest weights that are kept, the smallest that are not.

    Args:
        images: numbers of the test images, `[N]`.
        mask: false where a list is padded, of all test images, `[M, K]`.
        attention: weights, `[M, K]`; None shows the nearest.
        most: places of an image.
    """
    mask = mask[images]
    listed, size = mask.sum(1), min(most, mask.shape[1])
    if attention is None:
        places = np.where(mask, np.arange(mask.shape[1]), -1)[:, :size]
        return Shown(images, places, None, None, listed, 0 * listed, 0.0 * listed)
    weights = np.where(mask, attention[images], 0)
    keeps = kept.kept(weights)
    counts = keeps.sum(1)
    # The heaviest first, so that those which are kept come first, and padding last.
    order = np.argsort(np.where(mask, -weights, np.inf), axis=1, kind="stable")
    last = np.minimum(listed - counts, np.maximum(MOST_FILTERED, size - counts))
    first = size - last
    # From the place `first` on, what is shown are the last of the list.
    steps = np.arange(size)[None]
    skipped = np.where(steps < first[:, None], 0, np.maximum(listed - size, 0)[:, None])
    places = np.take_along_axis(order, np.minimum(steps + skipped, mask.shape[1] - 1), 1)
    valid = steps < listed[:, None]
    return Shown(
        images,
        np.where(valid, places, -1),
        np.where(valid, np.take_along_axis(weights, places, 1), 0),
        valid & np.take_along_axis(keeps, places, 1),
        listed,
        counts,
        np.where(keeps, weights, 0).sum(1, dtype=np.float64),
    )
