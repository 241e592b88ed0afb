"""Tiny-ImageNet with 40 % of its training labels replaced at random; otherwise as `configs/tiny_imagenet_lt.py`.

    web-memory run --config=configs/tiny_imagenet_noisy.py --config.data=/path/to/data

One method alone: `--config.train.heads=linear` (docs/config.md lists all); another loss: `--config.train.loss=ncr`.
Hardware and time are those of `configs/tiny_imagenet_lt.py`; our figures are in docs/results.md, "Wrong labels".

The training list is TinyImageNet_LT_train_noisy40.txt; val and test are the same clean lists. Shot groups count the
labels as given: 28, 121 and 51 classes are many-, medium- and few-shot. The paper has no figures for this cut; the
task that it stands for is WebVision (docs/datasets.md).
"""

import dataclasses

from configs import tiny_imagenet_lt
from configs.base import Config


def get_config() -> Config:
    """Returns the configuration; give the data folder as `--config.data=..`."""
    config = tiny_imagenet_lt.get_config()
    return dataclasses.replace(
        config,
        workdir="out/tiny_imagenet_noisy",
        train_set=dataclasses.replace(config.train_set, path="tiny_imagenet_lt/TinyImageNet_LT_train_noisy40.txt"),
        protocol=dataclasses.replace(config.protocol, classes_per_group=(28, 121, 51)),
    )
