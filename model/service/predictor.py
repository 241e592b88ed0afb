"""What the service needs of a recogniser: `model.recognizer.Recognizer`, or anything that answers as it does."""

from typing import Any, Protocol

from model.recognition.results import Neighbor, Prediction


class Predictor(Protocol):
    """A recogniser; `read` is called from several threads, the others from one.

    Attributes:
        head: name of the head that predicts unless another is named.
        heads: names of all heads.
        classes: names of the classes.
    """

    head: str
    heads: tuple[str, ...]
    classes: tuple[str, ...]

    def read(self, image: Any) -> Any:
        """Returns a photograph, encoded, in the form that the others take; a `UserError` if it cannot be read."""

    def predict(self, images: list[Any], *, head: str, top: int, influence: bool) -> list[Prediction]:
        """Returns a prediction for each photograph; a `UserError` if one cannot be used."""

    def search(self, *, text: str = "", image: Any = None, k: int = 12, where: str = "") -> list[Neighbor]:
        """Returns the memory rows nearest to a text or a photograph, of those that a filter lets pass.

        Raises:
            UserError: if that cannot be searched for, or the filter is wrong.
        """
