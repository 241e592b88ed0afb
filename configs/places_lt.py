"""Places-LT (Liu et al., CVPR 2019): 365 scenes with 5 to 4,980 training images, image-text pairs as memory.

    web-memory run --config=configs/places_lt.py --config.data=/path/to/data

One method alone: `--config.train.heads=linear` (docs/config.md lists all); another loss:
`--config.train.loss=..`. The data folder has

    places_lt/Places_LT_{train,val,test}.txt   lines `train/airfield/00000001.jpg 0`, or in another style of Places365
    places_lt/classnames.txt                   line c: name of label c
    places365/                                 the images of Places365, in any of its published layouts
    laion400m/*.tar                            what img2dataset writes, the memory

The paper's memory is WebLI (private); its keys come from ViT-B/16, its values from ViT-G/14 (no public weights) and T5.
Here the memory is LAION-400M and the encoders are the built-in ones, unless you name others (docs/datasets.md).

Hardware, time and our own figures: none. The images could not be had where this was written, so only the lists and the
settings are tested.

The figures of the paper and of others are in `configs/figures.py`; `web-memory evaluate --published` prints them beside
yours.
"""

import dataclasses

from configs.base import Config, Protocol, Source
from configs.published import CONFIG, TRAIN


def get_config() -> Config:
    """Returns the configuration; give the data folder as `--config.data=..`."""
    return dataclasses.replace(
        CONFIG,
        workdir="out/places_lt",
        train_set=_split("train"),
        val_set=_split("val"),
        test_set=_split("test"),
        class_names="places_lt/classnames.txt",
        protocol=Protocol(
            train_rows=62_500,
            val_rows=7_300,
            test_rows=36_500,
            classes=365,
            classes_per_group=(131, 163, 71),
            images_per_class=(5, 4_980),
            name="places_lt",
        ),
        train=dataclasses.replace(TRAIN, loss="lace", steps=3000, checkpoint_every=500),
    )


def _split(name: str) -> Source:
    return Source(format="image_list", path=f"places_lt/Places_LT_{name}.txt", image_root="places365")
