"""iNaturalist 2021 mini: 10,000 species with 50 training images each, image-text pairs as memory.

    web-memory run --config=configs/inat21_mini.py --config.data=/path/to/data

One method alone: `--config.train.heads=linear` (docs/config.md lists all). The data folder has

    inat21/train_mini.json, inat21/val.json   as published; images are named `train_mini/.../x.jpg`, `val/.../x.jpg`
    inat21/train_mini/, inat21/val/           the images
    inat21/classnames.txt                     line c: name of category c
    laion400m/*.tar                           what img2dataset writes, the memory

The labels of the test images are not public, so accuracy is reported on `val.json`. To choose nothing on it, settings
are chosen on 2 of the 50 training images of each species, held out by `part_seed`; heads train on the other 48. The
paper does not say what it chose on.

The paper's memory is WebLI (private); its keys come from ViT-B/16, its values from ViT-G/14 (no public weights) and T5.
Here the memory is LAION-400M and the encoders are the built-in ones, unless you name others (docs/datasets.md).

Hardware, time and our own figures: none. The images could not be had where this was written, so only the lists and the
settings are tested.

The figures of the paper are in `configs/figures.py`; `web-memory evaluate --published` prints them beside yours.
"""

import dataclasses

from configs.base import Config, Protocol, Source
from configs.published import CONFIG, TRAIN


def get_config() -> Config:
    """Returns the configuration; give the data folder as `--config.data=..`."""
    return dataclasses.replace(
        CONFIG,
        workdir="out/inat21_mini",
        train_set=_part(0.04, 1.0),
        val_set=_part(0.0, 0.04),
        test_set=Source(format="inat2021", path="inat21/val.json", image_root="inat21"),
        class_names="inat21/classnames.txt",
        # 500,000 in train_mini.json, 100,000 in val.json.
        protocol=Protocol(train_rows=480_000, val_rows=20_000, test_rows=100_000, classes=10_000, name="inat21_mini"),
        train=dataclasses.replace(TRAIN, loss="cross_entropy", steps=20_000, checkpoint_every=1000),
    )


def _part(begin: float, end: float) -> Source:
    return Source(format="inat2021", path="inat21/train_mini.json", image_root="inat21", part=(begin, end))
