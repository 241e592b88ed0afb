"""Tiny-ImageNet with 40 % of its training labels replaced at random; else as `configs/tiny_imagenet_lt.py`.

    for stage in pipelines.embed index.build index.neighbors model.train model.report; do
        python -m $stage --config=configs/tiny_imagenet_noisy.py --config.data=/path/to/data
    done

A method alone: `--config.train.heads=linear` (`mlp`, `mean_knn`, `mam`, .. README.md names all); another loss:
`--config.train.loss=ncr`. The training list is TinyImageNet_LT_train_noisy40.txt; val and test are clean, the same as
there. Shot groups count the labels as they are given: by them 28, 121 and 51 classes are many-, medium- and few-shot.
The paper has no figures for this cut; its WebVision (docs/datasets.md) is the task that this stands for.
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
        train=dataclasses.replace(config.train, loss="cross_entropy", k=64),
    )
