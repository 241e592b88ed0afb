"""A recogniser with known answers: a photograph is bytes, its class their first letter."""

import threading
import time

from model.recognition.results import Neighbor, Prediction
from pipelines.errors import UserError

HOSTILE = '<img src=x onerror=alert(1)> & "quotes" \'\u2028'


class Fake:
    """Reads what does not begin with `bad`, and remembers its calls."""

    head, heads, classes = "mam", ("mam", "linear"), ("cat", "dog", HOSTILE)

    def __init__(self, secs: float = 0.0) -> None:
        """Takes the seconds of a call."""
        self.secs, self.calls, self.lock = secs, [], threading.Lock()
        self.gate = threading.Event()
        self.gate.set()

    def read(self, image):
        if image.startswith(b"bad"):
            raise UserError("image 1: is no image")
        if image.startswith(b"bug"):
            raise RuntimeError("a bug")
        return image

    def predict(self, images, *, head="", top=5, influence=False):
        assert self.lock.acquire(blocking=False), "one call at a time"
        try:
            self.gate.wait(10)
            time.sleep(self.secs)
            self.calls.append((list(images), head, top, influence))
            for number, image in enumerate(images, 1):
                if image.startswith(b"late"):
                    raise UserError(f"image {number}: the encoder gives it no vector")
            return [prediction(image, head or self.head, top, influence) for image in images]
        finally:
            self.lock.release()

    def search(self, *, text="", image=None, k=12, where=""):
        if where == "wrong":
            raise UserError("where: 'wrong': is no filter")
        if text == "space":
            raise UserError("no text encoder shares the space")
        asked = f"{text or image.decode('latin-1')}{f' where {where}' if where else ''}"
        return [Neighbor(place, f"{asked} {HOSTILE}", "", 1 / (place + 3)) for place in range(k)]


def prediction(image: bytes, head: str, top: int = 5, influence: bool = False) -> Prediction:
    """Returns the answer to a photograph."""
    neighbors = tuple(
        Neighbor(place, f"{place} {HOSTILE}", "http://else.where/x.jpg", 0.9 / (place + 1), (10 - place) / 55, 0.1)
        for place in range(10)
    )
    if not influence:
        neighbors = tuple(Neighbor(n.id, n.caption, n.url, n.score, n.weight) for n in neighbors)
    classes = (f"{image[:1].decode('latin-1')}-{head}", "dog", HOSTILE)[:top]
    return Prediction(classes, (1 / 3, 0.1 + 0.2, 1e-7)[:top], neighbors if head == "mam" else ())
