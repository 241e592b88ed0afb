"""WebVision 1.0 with all its training images, from Google and Flickr.

    web-memory run --config=configs/webvision_full.py --config.data=/path/to/data

Otherwise as `configs/webvision.py`; we have not run it.
"""

import dataclasses

from configs import webvision
from configs.base import Config


def get_config() -> Config:
    """Returns the configuration; give the data folder as `--config.data=..`."""
    config, both = webvision.get_config(), "webvision/info/train_filelist_{google,flickr}.txt"
    return dataclasses.replace(
        config,
        workdir="out/webvision_full",
        train_set=webvision.part(both, 0.02, 1.0),
        val_set=webvision.part(both, 0.0, 0.02),
        train=dataclasses.replace(config.train, steps=50_000),
    )
