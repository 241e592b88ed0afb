"""Makes the gallery of a report: its page and the folder of its pictures."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from configs.base import Places
from model.data import class_names
from model.gallery import examples, influence, rows, thumbnails, wording
from model.gallery.examples import MOST_NEIGHBORS, Compared, Shown
from model.gallery.page import Material, payload
from model.gallery.thumbnails import Wanted, Written
from model.measures import filter_quality
from model.reports.pages.site import Site
from model.reports.runs import Runs
from pipelines import schemas, storage
from pipelines.errors import UserError
from pipelines.manifest import Embeddings, Neighbors
from pipelines.sources.pictures import Pictures

PICTURES = "pictures"
"""Folder of the pictures, beside the page."""
_FEWER = (MOST_NEIGHBORS, 12, 9, 6)


@dataclasses.dataclass(frozen=True)
class Result:
    """What was written.

    Attributes:
        path: of the page.
        images: test images on it.
        pictures: what is known of their files.
        size_bytes: of the page and the pictures.
    """

    path: str
    images: int
    pictures: Written
    size_bytes: int


@dataclasses.dataclass(frozen=True)
class _Lists:
    """The neighbours of all test images as the head reads them, ids and cosines `[M, K]`."""

    ids: np.ndarray
    scores: np.ndarray

    def ids_of(self, shown: Shown) -> np.ndarray:
        """Returns the memory rows of what is shown, -1 pads, `[N, S]`."""
        return np.where(shown.places >= 0, _at(self.ids, shown), -1)


def _at(values: np.ndarray, shown: Shown) -> np.ndarray:
    """Returns the entries `[N, S]` of `[M, K]` that are shown, any entry where a list is padded."""
    return np.take_along_axis(values[shown.images], np.maximum(shown.places, 0), 1)


def write(
    site: Site,
    places: Places,
    found: Runs,
    seed: int,
    sources: Mapping[str, Pictures],
    on_progress: Callable[[float, int], None] = lambda share, done: None,
) -> Result:
    """Writes `gallery.html` and its pictures.

    Args:
        site: the report.
        places: of the embedded test split, the neighbour lists and the class names.
        found: the runs, one of which is shown, beside one without memory.
        seed: by which test images are drawn if there are too many to show.
        sources: that `test` and `memory` were embedded from.
        on_progress: is told the share that is done, and the number of rows.

    Raises:
        UserError: if an output of an earlier stage is missing or damaged.
    """
    lists, test = Neighbors.open(places.neighbors), Embeddings(places.queries("test"))
    compared = examples.choose(found)
    attention, table = compared.run.attention(), lists.split("test")
    k = lists.k if attention is None else attention.shape[1]
    near = _Lists(*(schemas.to_matrix(table[name])[:, :k] for name in ("neighbor_ids", "scores")))
    with_images = {name: source for name, source in sources.items() if source.has_images}
    shown = _show(examples.sample(len(found.labels), seed), near, attention, "memory" in with_images)
    ids = near.ids_of(shown)
    memory, of_test = rows.of_memory(lists, np.unique(ids[ids >= 0])), rows.of_test(test, shown.images)

    before = len(shown.images) if compared.reads_memory else 0
    todo = before + len(shown.images) + len(memory.ids)

    def report(done: int) -> None:
        on_progress(done / todo, done)

    counts, why = _influence(compared, found.folder, lists, test, shown, report)
    rows_of = {"test": of_test, "memory": memory}
    wanted = [Wanted(name, rows_of[name], source) for name, source in with_images.items()]
    written = thumbnails.write(storage.join(site.folder, PICTURES), wanted, lambda done: report(before + done))
    files = dict(zip(with_images, written.files, strict=True))
    names = class_names.read(places, len(found.class_counts))
    relevant = filter_quality.Lists.load(lists, "test", names).relevant
    material = Material(
        compared=compared,
        shown=shown,
        labels=found.labels[shown.images],
        classes=names[: len(found.class_counts)],
        near=np.where(ids >= 0, np.searchsorted(memory.ids, ids), -1),
        scores=_at(near.scores, shown),
        influence=counts,
        relevant=_at(relevant, shown) & (ids >= 0),
        test=of_test,
        memory=memory,
        test_files=files.get("test", [None] * len(of_test.ids)),
        memory_files=files.get("memory", [None] * len(memory.ids)),
    )
    facts = wording.facts(material, payload(material), len(found.labels), written, [*with_images], why)
    report(todo)
    path = site.write("gallery", facts, scripts=["gallery.js"], styles=["gallery.css"])
    return Result(path, len(shown.images), written, written.size_bytes + storage.size_bytes(path))


def _show(images: np.ndarray, near: _Lists, attention: np.ndarray | None, with_pictures: bool) -> Shown:
    """Chooses the neighbours, fewer of each image if otherwise there were too many pictures."""
    for most in _FEWER:
        shown = examples.show(images, near.ids >= 0, attention, most)
        ids = near.ids_of(shown)
        if not with_pictures or len(images) + len(np.unique(ids[ids >= 0])) <= thumbnails.most_pictures():
            break
    return shown


def _influence(
    compared: Compared, folder: str, lists: Neighbors, test: Embeddings, shown: Shown, on_done: Callable[[int], None]
) -> tuple[np.ndarray | None, str]:
    """Returns the influence of the neighbours that are shown, or None and why it is not known."""
    if not compared.reads_memory:
        return None, ""
    try:
        return influence.measure(folder, compared.run, lists, test, shown, on_done), ""
    except UserError as error:
        # The report of runs of an earlier version, which kept no parameters, is worth reading all the same.
        return None, str(error)
