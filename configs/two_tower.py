"""Long-tailed Tiny-ImageNet with a two-tower model of your own, trained on the 15,060 web pairs of the memory.

    web-memory run --config=configs/two_tower.py --config.data=/path/to/data

The stage `align` comes first and trains the encoders: a linear layer behind EfficientNet-Lite0 and another behind
MiniLM. All other stages then use them: text search (`web-memory search .. --text="a red bird"`), the method
`zero_shot`, and mam. The data folder is that of `configs/tiny_imagenet_lt.py`.
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
