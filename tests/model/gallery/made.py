"""A gallery of known answers, whose captions, names and classes are those of somebody who wishes us ill."""

import pathlib

import numpy as np
from PIL import Image

from model.gallery import examples, wording
from model.gallery.examples import Compared
from model.gallery.page import Material, payload
from model.gallery.rows import Rows
from model.gallery.thumbnails import Written
from model.reports.pages.site import Site
from model.reports.runs import Run
from pipelines import schemas

HOSTILE = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert('img')>",
    "\u202eevil \u2066 text\u202c </bdi></p><!-- ",
    "two\nlines\tand \x00 zero \ud800",
    "long " * 2000,
    "{{ 7 * 7 }} ${alert(2)} \u2028 </script><script>alert(3)</script>",
)
CLASSES = ("cat", "<b>dog</b> & \u202ex", "class 2", '"quoted"', "")
IMAGES, K = 47, 24


def run(head: str, predicted: np.ndarray, seed: int = 0, **result: object) -> Run:
    """Returns a run with these predictions, each of probability 0.75."""
    classes = predicted.astype(np.int32)[:, None]
    result = {"val_accuracy": {"all": 0.5}, **result}
    return Run(head, seed, result, classes, np.full(classes.shape, 0.75, np.float32), "")


def material(
    head: str = "mam", baseline: str | None = "linear", attends: bool = True, pictures: bool = True
) -> Material:
    """Returns what a page is made of: test image i is of class i % 5 and its n-th neighbour is memory row i + n.

    The head is wrong on every third image, linear on every second. Weights fall by half from neighbour to neighbour.
    """
    labels = np.arange(IMAGES) % len(CLASSES)
    wrong = (labels + 1) % len(CLASSES)
    ours = np.where(np.arange(IMAGES) % 3 == 0, wrong, labels)
    theirs = np.where(np.arange(IMAGES) % 2 == 0, wrong, labels)
    mask = np.arange(K)[None] < np.where(np.arange(IMAGES) == 1, 3, K)[:, None]
    attention = np.broadcast_to(np.float32(0.5) ** np.arange(1, K + 1), mask.shape) if attends else None
    shown = examples.show(np.arange(IMAGES), mask, attention)
    near = np.where(shown.places >= 0, np.arange(IMAGES)[:, None] + shown.places, -1)
    rows = int(near.max()) + 1
    texts = [HOSTILE[row % len(HOSTILE)] if row % 7 else None for row in range(rows)]
    names = [f"../{HOSTILE[row % len(HOSTILE)]}.jpg" for row in range(IMAGES)]
    return Material(
        compared=Compared(run(head, ours), run(baseline, theirs) if baseline else None),
        shown=shown,
        labels=labels,
        classes=list(CLASSES),
        near=near,
        scores=np.linspace(0.9, 0.1, shown.places.size).reshape(shown.places.shape),
        influence=np.linspace(-0.3, 0.3, shown.places.size).reshape(shown.places.shape) if attends else None,
        relevant=near % 4 == 0,
        test=Rows(schemas.make_id(0, np.arange(IMAGES)), [""] * IMAGES, names, [None] * IMAGES),
        memory=Rows(schemas.make_id(3, np.arange(rows)), [""] * rows, ["x"] * rows, texts),
        test_files=[f"test-0-{n}.jpg" if pictures and n % 5 else None for n in range(IMAGES)],
        memory_files=[f"memory-3-{n}.jpg" if pictures else None for n in range(rows)],
    )


def write(folder: pathlib.Path, given: Material, written: Written | None = None) -> dict:
    """Writes the page and its pictures; returns what the template was given."""
    files = [given.test_files, given.memory_files]
    (folder / "pictures").mkdir(parents=True)
    for file in {file for some in files for file in some if file}:
        Image.new("RGB", (30, 20), "teal").save(folder / "pictures" / file)
    with_images = ["test", "memory"] if given.memory_files[0] else []
    facts = wording.facts(given, payload(given), 2 * IMAGES, written or Written(files, 1_234_567), with_images, "")
    site = Site(str(folder), f"A report {HOSTILE[0]}", ["index", "gallery"])
    site.write("gallery", facts, ["gallery.js"], ["gallery.css"])
    return facts
