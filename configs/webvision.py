"""WebVision 1.0, training images of Google only: 1,000 classes, whose labels are search queries and often wrong.

    web-memory run --config=configs/webvision.py --config.data=/path/to/data

`configs/webvision_full.py` adds the images of Flickr, `configs/webvision_mini.py` takes the first 50 classes. One
method alone: `--config.train.heads=linear` (docs/config.md lists all); another loss: `--config.train.loss=..`. The
data folder has

    webvision/info/train_filelist_{google,flickr}.txt   lines `google/q0001/x.jpg 0`
    webvision/info/val_filelist.txt                     lines `val000001.jpg 0`, images below val_images_256/
    webvision/info/classnames.txt                       line c: `wnid<TAB>name` of label c, from synsets.txt
    webvision/{google,flickr,val_images_256}/           the images
    laion400m/*.tar                                     what img2dataset writes, the memory

The labels of the test images are not public, so accuracy is reported on the validation list. To choose nothing on it,
settings are chosen on 2 % of the training images of each class, held out by `part_seed`. Their labels are as wrong as
the others: no clean label is used before the test. The paper does not say what it chose on.

The paper's memory is WebLI (private); its keys come from ViT-B/16, its values from ViT-G/14 (no public weights) and T5.
Here the memory is LAION-400M and the encoders are the built-in ones, unless you name others (docs/datasets.md).
WebVision has the classes of ImageNet: encoders that have seen those labels leak.

Hardware, time and our own figures: none. The images could not be had where this was written, so only the lists and the
settings are tested.

The figures of the paper, which does not say which training list was used, are in `configs/figures.py`; `web-memory
evaluate --published` prints them beside yours.
"""

import dataclasses

from configs.base import Config, Protocol, Source
from configs.published import CONFIG, TRAIN

GOOGLE = "webvision/info/train_filelist_google.txt"


def get_config() -> Config:
    """Returns the configuration; give the data folder as `--config.data=..`."""
    return dataclasses.replace(
        CONFIG,
        workdir="out/webvision",
        train_set=part(GOOGLE, 0.02, 1.0),
        val_set=part(GOOGLE, 0.0, 0.02),
        test_set=Source(format="webvision", path="webvision/info/val_filelist.txt", image_root="webvision"),
        class_names="webvision/info/classnames.txt",
        protocol=Protocol(test_rows=50_000, classes=1000, name="webvision"),
        train=dataclasses.replace(
            TRAIN,
            loss="cross_entropy",
            steps=20_000,
            space=("similarity_scale=10.0|20.0|40.0", "label_smoothing=0.0|0.1"),
            checkpoint_every=1000,
        ),
    )


def part(path: str, begin: float, end: float, classes: int = 0) -> Source:
    """Returns a part of the training lists, of the first `classes` only unless that is 0."""
    return Source(format="webvision", path=path, image_root="webvision", part=(begin, end), classes=classes)
