"""ImageNet-LT (Liu et al., CVPR 2019): 1,000 classes with 5 to 1,280 training images, image-text pairs as memory.

    web-memory run --config=configs/imagenet_lt.py --config.data=/path/to/data

One method alone: `--config.train.heads=linear` (docs/config.md lists all); another loss:
`--config.train.loss=..`. The data folder has

    imagenet_lt/ImageNet_LT_{train,val,test}.txt   lines `train/n01440764/n01440764_190.JPEG 0`
    imagenet_lt/classnames.txt                     line c: `wnid<TAB>name` of label c
    imagenet/{train,val}/                          ILSVRC 2012, laid out as the lists name the images
    laion400m/*.tar                                what img2dataset writes, the memory

The paper's memory is WebLI (private); its keys come from ViT-B/16, its values from ViT-G/14 (no public weights) and
T5. Here the memory is LAION-400M and the encoders are the built-in ones, unless you name others (docs/datasets.md).
Encoders that have seen ImageNet's labels, the built-in ones too, leak: their figures do not measure what the memory
adds.

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
        workdir="out/imagenet_lt",
        train_set=_split("train"),
        val_set=_split("val"),
        test_set=_split("test"),
        class_names="imagenet_lt/classnames.txt",
        protocol=Protocol(
            train_rows=115_846,
            val_rows=20_000,
            test_rows=50_000,
            classes=1000,
            images_per_class=(5, 1_280),
            name="imagenet_lt",
        ),
        train=dataclasses.replace(TRAIN, loss="lace", steps=6000, checkpoint_every=500),
    )


def _split(name: str) -> Source:
    return Source(format="image_list", path=f"imagenet_lt/ImageNet_LT_{name}.txt", image_root="imagenet")
