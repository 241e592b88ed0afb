"""Predictions for new photographs, in Python.

    from model.recognizer import Recognizer

    with Recognizer.open("out/demo") as recognizer:           # a workdir with trained heads, or a bundle
        for found in recognizer.predict(["a.jpg", "b.png"]):
            print(found.classes[0], found.probabilities[0], found.neighbors[0].caption)

A recogniser is loaded once and holds encoders, index and memory; any number of threads may call it.
"""

import os
import types
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from model.recognition.results import Neighbor, Prediction

if TYPE_CHECKING:
    from PIL import Image

    from model.recognition.engine import Engine, Lists, Outputs
    from model.recognition.memory import Memory
    from model.recognition.pictures import Pixels
    from model.recognition.session import Session

    Picture = str | os.PathLike[str] | bytes | Image.Image | np.ndarray | Pixels

__all__ = ["Neighbor", "Prediction", "Recognizer"]

# Photographs that are decoded and kept as pixels at a time.
_AT_ONCE = 256


class Recognizer:
    """A trained head with its memory and encoders.

    Attributes:
        head: name of the head that predicts unless another is named.
        heads: names of all trained heads, the best on val first.
        classes: names of the classes.
    """

    def __init__(self, session: "Session", head: str, more: "dict[str, Engine] | None" = None) -> None:
        """Takes what is loaded; `open` loads it.

        Args:
            session: what several recognisers may share.
            head: that predicts unless another is named.
            more: heads that know more classes, instead of those of the session.
        """
        self._session, self._more, self.head = session, more or {}, head
        self.heads: tuple[str, ...] = tuple(more) if more else session.heads
        self.classes: tuple[str, ...] = self._engine(head).trained.classes

    @classmethod
    def open(
        cls, path: str, *, head: str = "", seeds: str | int = "best", follow: bool = False, unsafe_models: bool = False
    ) -> "Recognizer":
        """Opens a workdir, a folder of its runs, or a bundle.

        Args:
            path: of the folder.
            head: that predicts; empty for the best on val.
            seeds: the run to use: the best on val, that of a seed, or `all`, whose probabilities are averaged.
            follow: whether to change to each new version of index and memory that is published.
            unsafe_models: whether encoders of a bundle may reach files, sockets, processes and Python.

        Raises:
            UserError: if the folder holds no trained head, or a file of it is missing, damaged or of another run.
        """
        # Before JAX is imported, which sets a level of its own.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        from model.recognition.session import Session

        session = Session(path, head, seeds, follow, unsafe_models)
        session.load_encoder()
        return cls(session, head or session.heads[0])

    def _engine(self, head: str) -> "Engine":
        head = head or self.head
        return self._more[head] if head in self._more else self._session.engine(head)

    def predict(
        self, images: "Iterable[Picture] | Picture", *, head: str = "", top: int = 5, influence: bool = False
    ) -> list[Prediction]:
        """Predicts the classes of photographs.

        Args:
            images: paths or URLs of files, encoded bytes, Pillow images, or uint8 arrays `[H, W, 3]`; or one of these.
            head: that predicts, instead of the recogniser's own.
            top: number of classes.
            influence: whether to compute the influence of each neighbour, which takes a forward pass for each.

        Raises:
            UserError: if an image cannot be read; it is named by its path or its place. If there is no such head, or
                `top` is less than 1.
        """
        from model.recognition import pictures

        given: list[Any] = [images] if pictures.is_one(images) else list(cast("Iterable[Picture]", images))
        _check_count("top", top)
        engine, state = self._engine(head), self._session.state()
        found: list[Prediction] = []
        for first in range(0, len(given), _AT_ONCE):
            photographs = self._session.pixels(given[first : first + _AT_ONCE], first)
            keys = self._session.keys(photographs, first)
            lists = engine.look_up(state.index, state.memory, keys, [photograph.image for photograph in photographs])
            outputs = engine.predict(state.memory, keys, lists, top)
            counts = engine.influence(state.memory, keys, lists, outputs) if influence else None
            found += _predictions(engine.trained.classes, state.memory, lists, outputs, counts)
        return found

    def read(self, image: "Picture") -> "Pixels":
        """Returns a photograph decoded, for `predict` or `search` later.

        Raises:
            UserError: if it cannot be read.
        """
        return self._session.pixels([image])[0]

    def search(self, *, text: str = "", image: "Picture | None" = None, k: int = 12, where: str = "") -> list[Neighbor]:
        """Returns the memory rows nearest to a text or an image, the nearest first.

        Args:
            text: to search for, or
            image: to search for.
            k: rows; there are fewer only if the filter lets fewer pass.
            where: a filter, such as `similarity>=0.3 and LICENSE=cc0` (docs/filters.md); empty for none.

        Raises:
            UserError: if not one of the two is given, `k` is less than 1, the image cannot be read, the filter is
                wrong, or no text encoder shares the space of the keys.
        """
        from model.recognition.engine import neighbor
        from pipelines.errors import UserError

        if bool(text) == (image is not None):
            raise UserError("search: give a text or an image")
        _check_count("k", k)
        session, state = self._session, self._session.state()
        queries = session.text_query(text) if text else session.image_query(image)
        allowed = state.filters.allowed(where)[0] if where else None
        hits = state.index.search(queries, min(k, state.index.rows), allowed=allowed)
        ids = hits.ids[0][hits.ids[0] >= 0]
        places = state.memory.places(ids)
        rows = zip(ids.tolist(), places.tolist(), hits.scores[0].tolist(), strict=False)
        return [neighbor(state.memory, id_, place, score) for id_, place, score in rows]

    def with_classes(self, names: Sequence[str]) -> "Recognizer":
        """Returns a recogniser that knows more classes, by their names alone; it shares what this one has loaded.

        Raises:
            UserError: if a name is empty or known, or the head cannot take names that were not trained.
        """
        engine = self._session.extended(self._engine(self.head), names)
        return Recognizer(self._session, self.head, {self.head: engine})

    def close(self) -> None:
        """Lets go of the index and the memory; a closed recogniser predicts nothing."""
        self._session.close()

    def __enter__(self) -> "Recognizer":
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        """Closes it."""
        self.close()


def _check_count(name: str, count: int) -> None:
    """Raises a `UserError` for a number of classes or rows that is none."""
    from pipelines.errors import UserError

    if not isinstance(count, int | np.integer) or count < 1:
        raise UserError(f"{name}={count!r}: must be a whole number from 1")


def _predictions(
    classes: Sequence[str], memory: "Memory", lists: "Lists", outputs: "Outputs", influence: np.ndarray | None
) -> list[Prediction]:
    from model.recognition.engine import neighbors

    return [
        Prediction(
            tuple(classes[number] for number in outputs.classes[row].tolist()),
            tuple(outputs.probabilities[row].tolist()),
            tuple(neighbors(memory, lists, outputs, influence, row)),
        )
        for row in range(len(outputs.classes))
    ]
