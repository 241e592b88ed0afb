"""iNaturalist 2018 (Van Horn et al., CVPR 2018): 8,142 species with a natural long tail, image-text pairs as memory.

    web-memory run --config=configs/inat18.py --config.data=/path/to/data

One method alone: `--config.train.heads=linear` (docs/config.md lists all); another loss: `--config.train.loss=..`. The
data folder has

    iNaturalist2018/{train,val}.txt    lines `train_val2018/Plantae/7291/9f8ec.jpg 7291`, as LIFT lists them
    iNaturalist2018/classnames.txt     line c: name of category c
    iNaturalist2018/train_val2018/     the images
    laion400m/*.tar                    what img2dataset writes, the memory

The labels of the test images are not public, so accuracy is reported on `val.txt`, 3 images of each species. To choose
nothing on it, settings are chosen on 5 % of the training images of each species that has at least 10, held out by
`part_seed`; heads train on the others, and shot groups are by the images that are left. Published figures are of heads
that train on all 437,513 images and of groups by these: compare their groups with care. `web-memory evaluate
--published` prints those of `configs/figures.py` beside yours.

Hardware, time and our own figures: none. The images could not be had where this was written, so only the lists and the
settings are tested.
"""

import dataclasses

from configs.base import Config, Protocol, Source
from configs.published import CONFIG, TRAIN


def get_config() -> Config:
    """Returns the configuration; give the data folder as `--config.data=..`."""
    return dataclasses.replace(
        CONFIG,
        workdir="out/inat18",
        train_set=_list("train", (0.05, 1.0)),
        val_set=_list("train", (0.0, 0.05)),
        test_set=_list("val"),
        class_names="iNaturalist2018/classnames.txt",
        protocol=Protocol(train_val_rows=437_513, test_rows=24_426, classes=8_142, name="inat18"),
        train=dataclasses.replace(TRAIN, loss="lace", steps=20_000, checkpoint_every=1000),
    )


def _list(name: str, part: tuple[float, ...] = ()) -> Source:
    return Source(format="image_list", path=f"iNaturalist2018/{name}.txt", image_root="iNaturalist2018", part=part)
