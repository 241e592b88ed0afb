"""Measures of runs as TensorBoard events: `tensorboard --logdir=out/demo`.

A folder of events is made again whenever its run is resumed, from what the run has kept, so that no step has two
values.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

from pipelines import storage

FOLDER = "tensorboard"
# What the table of hyperparameters shows of each run.
_SHOWN = ("val_all", "loss")


def _writer(folder: pathlib.Path) -> SummaryWriter:
    storage.remove(str(folder / FOLDER))
    return SummaryWriter(str(folder / FOLDER))


class Events:
    """The events of one run: its hyperparameters and its curves."""

    def __init__(self, folder: pathlib.Path, settings: Mapping[str, Any], kept: bytes) -> None:
        """Makes the folder of events again.

        Args:
            folder: of the run.
            settings: hyperparameters: numbers, texts, booleans, and others by their text.
            kept: the lines of its log so far, which are written again.
        """
        self._writer = _writer(folder)
        told = {name: v if isinstance(v, bool | int | float | str) else str(v) for name, v in settings.items()}
        experiment, session, self._end = hparams(told, dict.fromkeys(_SHOWN))
        for summary in (experiment, session):
            self._writer.file_writer.add_summary(summary)
        for line in kept.splitlines():
            values = json.loads(line)
            self.write(values.pop("step"), values)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def finish(self) -> None:
        """Marks the run as finished and closes the file."""
        self._writer.file_writer.add_summary(self._end)
        self.close()

    def close(self) -> None:
        """Closes the file of a run that is not finished."""
        self._writer.close()


def write_picture(folder: str, name: str, path: str) -> None:
    """Writes a picture, a PNG file at `path`, as the only event of a folder; one that was there is replaced."""
    with storage.open_read(path) as file, Image.open(file) as image:
        pixels = np.asarray(image.convert("RGB"))
    writer = _writer(pathlib.Path(folder))
    writer.add_image(name, pixels, dataformats="HWC")
    writer.close()
