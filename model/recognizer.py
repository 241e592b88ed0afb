"""Predictions for new photographs, in Python.

    from model.recognizer import Recognizer

    with Recognizer.open("out/demo") as recognizer:           # a workdir with trained heads, or a bundle
        for found in recognizer.predict(["a.jpg", "b.png"]):
            print(found.classes[0], found.probabilities[0], found.neighbors[0].caption)

A recogniser is loaded once and holds encoders, index and memory; any number of threads may call it.
"""

import types
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from model.recognition.results import Neighbor, Prediction

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    Picture = str | bytes | Image.Image | np.ndarray

__all__ = ["Neighbor", "Prediction", "Recognizer"]

Seeds = Literal["best", "all"] | int


class Recognizer:
    """A trained head with its memory and encoders.

    Attributes:
        head: name of the head that predicts unless another is named.
        heads: names of all trained heads, the best on val first.
        classes: names of the classes.
    """

    head: str
    heads: tuple[str, ...]
    classes: tuple[str, ...]

    @classmethod
    def open(cls, path: str, *, head: str = "", seeds: Seeds = "best", follow: bool = False) -> "Recognizer":
        """Opens a workdir, a folder of its runs, or a bundle.

        Args:
            path: of the folder.
            head: that predicts; empty for the best on val.
            seeds: the run to use: the best on val, that of a seed, or `all`, whose probabilities are averaged.
            follow: whether to change to each new version of index and memory that is published.

        Raises:
            UserError: if the folder holds no trained head, or a file of it is missing, damaged or of another run.
        """
        raise NotImplementedError

    def predict(
        self, images: "Sequence[Picture]", *, head: str = "", top: int = 5, influence: bool = False
    ) -> list[Prediction]:
        """Predicts the classes of photographs.

        Args:
            images: paths or URLs of files, encoded bytes, Pillow images, or uint8 arrays `[H, W, 3]`.
            head: that predicts, instead of the recogniser's own.
            top: number of classes.
            influence: whether to compute the influence of each neighbour, which takes a forward pass for each.

        Raises:
            UserError: if an image cannot be read; it is named by its path or its place. Or if there is no such head.
        """
        raise NotImplementedError

    def search(self, *, text: str = "", image: "Picture | None" = None, k: int = 12) -> list[Neighbor]:
        """Returns the memory rows nearest to a text or an image, the nearest first.

        Raises:
            UserError: if not one of the two is given, the image cannot be read, or no text encoder shares the space of
                the keys.
        """
        raise NotImplementedError

    def with_classes(self, names: Sequence[str]) -> "Recognizer":
        """Returns a recogniser that knows more classes, by their names alone; it shares what this one has loaded.

        Raises:
            UserError: if a name is empty or known, or the head cannot take names that were not trained.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Lets go of the index and the memory; a closed recogniser predicts nothing."""

    def __enter__(self) -> "Recognizer":
        """Returns itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        """Closes it."""
        self.close()
