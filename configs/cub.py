"""CUB-200-2011 (Wah et al., 2011): 200 birds with some 30 training images each, image-text pairs as memory.

    web-memory run --config=configs/cub.py --config.data=/path/to/data

One method alone: `--config.train.heads=linear` (docs/config.md lists all). The data folder has

    CUB_200_2011/{train,test}.txt    lines `001.Black_footed_Albatross/x.jpg 0`, made as docs/datasets.md says
    CUB_200_2011/classnames.txt      line c: name of label c
    CUB_200_2011/images/             the images
    laion400m/*.tar                  what img2dataset writes, the memory

There is no validation list: settings are chosen on 3 training images of each class, held out by `part_seed`, and heads
train on the others.

Hardware, time and our own figures: none. The images could not be had where this was written, so only the settings are
tested.
"""

import dataclasses

from configs.base import Config, Protocol, Source
from configs.published import CONFIG, TRAIN


def get_config() -> Config:
    """Returns the configuration; give the data folder as `--config.data=..`."""
    return dataclasses.replace(
        CONFIG,
        workdir="out/cub",
        train_set=_list("train", (0.1, 1.0)),
        val_set=_list("train", (0.0, 0.1)),
        test_set=_list("test"),
        class_names="CUB_200_2011/classnames.txt",
        protocol=Protocol(train_rows=5_394, val_rows=600, test_rows=5_794, train_val_rows=5_994, classes=200),
        train=dataclasses.replace(
            TRAIN,
            many_over=0,
            few_under=0,
            loss="cross_entropy",
            batch_size=256,
            steps=2000,
            checkpoint_every=250,
        ),
    )


def _list(name: str, part: tuple[float, ...] = ()) -> Source:
    return Source(format="image_list", path=f"CUB_200_2011/{name}.txt", image_root="CUB_200_2011/images", part=part)
