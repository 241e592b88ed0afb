"""Long-tailed Tiny-ImageNet with a two-tower model of your own, trained on the 15,060 web pairs of the memory.

    web-memory run --config=configs/two_tower.py --config.data=/path/to/data

The stage `align` comes first and trains the encoders: a linear layer behind EfficientNet-Lite0 and another behind
MiniLM. All other stages then use them: text search (`web-memory search .. --text="a red bird"`), the method
`zero_shot`, and mam. The data folder is that of `configs/tiny_imagenet_lt.py`.

Hardware: 2 cores of an Intel Xeon with AMX, 24 GiB, no accelerator, shared with other jobs: 18 minutes in all, of which
align takes 8. On 1,000 held-out pairs recall@10 is 0.510 for images by text and 0.524 for texts by image (chance
0.010). Test accuracy in percent over 5 seeds, all (few-shot), on an AMD EPYC: linear 52.0 (42.7), mean_knn 55.0 (50.9),
mam 55.9 (53.8), zero_shot 55.0 (57.1), knn_vote 58.0 (59.4), mam_names 62.0 (60.7); docs/results.md has the intervals.

The towers have seen neither the val and test images nor 78 pairs that are dropped as copies of them. What the filter of
copies misses (docs/filters.md) is trained on: with the towers' own keys it finds 72 pairs, two of them others. Many
captions name one of the 200 classes, so these figures show how the parts work together, not what a two-tower model does
on classes that are new to it.
"""

import dataclasses

from configs import tiny_imagenet_lt
from configs.base import Align, Encoders, TwoTowerConfig

_FOLDER = "out/two_tower/align"


def get_config() -> TwoTowerConfig:
    """Returns the configuration; give the data folder as `--config.data=..`."""
    config = tiny_imagenet_lt.get_config()
    own = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    own |= {
        "workdir": "out/two_tower",
        "encoders": Encoders(
            key=f"{_FOLDER}/towers/image",
            value_image=(),
            value_text=(f"{_FOLDER}/towers/text",),
            crop_fraction=1.0,
        ),
        "train": dataclasses.replace(config.train, heads=("linear", "mean_knn", "mam", "zero_shot")),
    }
    return TwoTowerConfig(**own, align=Align(folder=_FOLDER, dim=512, batch_size=512, steps=800))
