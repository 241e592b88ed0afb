"""A whole line, as `Line`, whose captions, class names and file names were written by an enemy, and its report."""

import pathlib

from model import report
from tests.model.recognition.line import COLORS, Line, picture
from tests.pipelines import tiny_encoders as tiny

SCRIPT = "<script>alert(1)</script>"
IMAGE = "<img src=x onerror=alert(2)>"
# An override of the direction, which must not reach a page.
OVERRIDE = "\u202e"
CLASSES = (f'{SCRIPT} "blue"', f"green' {OVERRIDE}dog", r"red | \input{x} & 50%")
CAPTIONS = (SCRIPT, f"\"'><svg onload=alert(3)> {OVERRIDE}abc", "blue " * 2000, "</textarea></script>{{ 7 * 7 }}")


class Story(Line):
    """With hostile rows, one that cannot be decoded, one that is too small, and one that is a copy of a test image."""

    def __init__(self, root: pathlib.Path) -> None:
        """Writes the images."""
        super().__init__(root, **{"filters.leakage": 0.99, "filters.min_side": 10, "embed.max_rejects_share": 0.5})
        name = next(iter(COLORS))
        pairs = [(f"{IMAGE.replace('.', '')}{i}", picture(name, i), caption) for i, caption in enumerate(CAPTIONS)]
        copy = (root / "test/blue/0.png").read_bytes()
        pairs += [("broken", b"no image", SCRIPT), ("copy", copy, IMAGE)]
        tiny.write_tar(root / "pairs/00002.tar", pairs)
        (root / f"test/blue/{IMAGE}.png").write_bytes(picture("red", 5))
        (root / "names.txt").write_text("".join(f"{name}\n" for name in CLASSES))

    @property
    def folder(self) -> pathlib.Path:
        """The folder of the pages."""
        return self.root / "out/report"

    def report(self, *more: str) -> None:
        """Writes the report."""
        assert report.main(self.argv(*more)) == 0
