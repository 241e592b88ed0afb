"""The nine few-shot sets of SWAT (Liu et al., arXiv 2406.11148), with its seeds and shots; image-text pairs as memory.

    web-memory run --config=configs/few_shot.py:dataset=semi-aves,shots=16,seed=1 --config.data=/path/to/data

`dataset` is one of `semi-aves`, `fgvc-aircraft`, `eurosat`, `dtd`, `stanford_cars`, `food101`, `flowers102`,
`oxford_pets` and `imagenet`; `shots` is 4, 8 or 16; `seed` is 1, 2 or 3. The data folder has, for each dataset,

    few_shot/NAME/fewshot16_seed1.txt, test.txt   of SWAT's folder data/NAME; lines `jpg/image_06766.jpg 0 1`
    few_shot/NAME/classnames.txt                  line c: names of label c, separated by commas (docs/datasets.md)
    few_shot/NAME/..                              the images, laid out as the lists name them
    laion400m/*.tar                               what img2dataset writes, the memory

SWAT holds no image out. Our settings are chosen on a quarter of the shots of each
class, which are held out from the few-shot list; nothing else that has a label is looked at before the test.

Hardware, time and our own figures: none. The images could not be had where this was written, so only the lists and the
settings are tested. What others published is in configs/figures.py, and `web-memory evaluate .. --published` shows it.
"""

import dataclasses

from configs.base import Config, Protocol, Source
from configs.published import CONFIG, TRAIN

# Classes and test images of each set.
SETS = {
    "semi-aves": (200, 8_000),
    "fgvc-aircraft": (100, 3_333),
    "eurosat": (10, 8_100),
    "dtd": (47, 1_692),
    "stanford_cars": (196, 8_041),
    "food101": (101, 30_300),
    "flowers102": (102, 2_463),
    "oxford_pets": (37, 3_669),
    "imagenet": (1_000, 50_000),
}
SHOTS = (4, 8, 16)
SEEDS = (1, 2, 3)
# A class of Semi-Aves has only 15 training images.
_MISSING = {("semi-aves", 16): 1}
_HELD_OUT = 0.25


def get_config(dataset: str = "semi-aves", shots: int = 16, seed: int = 1) -> Config:
    """Returns the configuration of one split; give the data folder as `--config.data=..`.

    Args:
        dataset: one of `SETS`.
        shots: labelled images of each class, one of `SHOTS`.
        seed: of the draw of these images, one of `SEEDS`.

    Raises:
        ValueError: if there is no such split.
    """
    for name, value, choices in (("dataset", dataset, SETS), ("shots", shots, SHOTS), ("seed", seed, SEEDS)):
        if value not in choices:
            raise ValueError(f"{name}={value} must be one of {', '.join(map(str, choices))}")
    classes, test_rows = SETS[dataset]
    missing = _MISSING.get((dataset, shots), 0)
    # The list has multiples of four images a class, but for the one that lacks some, of which as many are held out.
    images, held_out = classes * shots - missing, classes * shots // 4
    left = shots - shots // 4
    few = Source(
        format="swat", path=f"few_shot/{dataset}/fewshot{shots}_seed{seed}.txt", image_root=f"few_shot/{dataset}"
    )
    return dataclasses.replace(
        CONFIG,
        workdir=f"out/few_shot/{dataset}_{shots}_{seed}",
        train_set=dataclasses.replace(few, part=(_HELD_OUT, 1.0)),
        val_set=dataclasses.replace(few, part=(0.0, _HELD_OUT)),
        test_set=dataclasses.replace(few, path=f"few_shot/{dataset}/test.txt"),
        class_names=f"few_shot/{dataset}/classnames.txt",
        protocol=Protocol(
            name=f"few_shot/{dataset}/{shots}",
            train_rows=images - held_out,
            val_rows=held_out,
            test_rows=test_rows,
            train_val_rows=images,
            classes=classes,
            images_per_class=(left - missing, left),
        ),
        train=dataclasses.replace(
            TRAIN,
            many_over=0,
            few_under=0,
            loss="cross_entropy",
            batch_size=64,
            steps=1000,
            checkpoint_every=250,
        ),
    )
