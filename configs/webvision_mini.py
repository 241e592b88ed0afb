"""Mini-WebVision (Jiang et al., ICML 2018): the first 50 classes of Google's images.

    web-memory run --config=configs/webvision_mini.py --config.data=/path/to/data

Otherwise as `configs/webvision.py`. A tenth of the training images of each class is held out to choose settings on. The
paper has no figures for it, and we have not run it.
"""

import dataclasses

from configs import webvision
from configs.base import Config, Protocol

_CLASSES = 50


def get_config() -> Config:
    """Returns the configuration; give the data folder as `--config.data=..`."""
    config = webvision.get_config()
    return dataclasses.replace(
        config,
        workdir="out/webvision_mini",
        train_set=webvision.part(webvision.GOOGLE, 0.1, 1.0, _CLASSES),
        val_set=webvision.part(webvision.GOOGLE, 0.0, 0.1, _CLASSES),
        test_set=dataclasses.replace(config.test_set, classes=_CLASSES),
        protocol=Protocol(test_rows=2500, classes=_CLASSES),
        train=dataclasses.replace(config.train, steps=3000, checkpoint_every=500),
    )
