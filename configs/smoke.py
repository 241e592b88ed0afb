"""The demo on 200 images, from the corpus to the report: does everything work here?

    make smoke      (or: web-memory run --config=configs/smoke.py)

One minute on 2 cores once the encoders are in the cache. The figures mean nothing: 10 classes of a few images each.
"""

import dataclasses

from configs import demo
from configs.base import Corpus, DemoConfig


def get_config() -> DemoConfig:
    """Returns the demo's configuration, cut down."""
    config = demo.get_config()
    return dataclasses.replace(
        config,
        data="out/smoke-corpus",
        workdir="out/smoke",
        corpus=Corpus(memory_styles=("twemoji",), max_emoji=100),
        train=dataclasses.replace(
            config.train, heads=("linear", "mean_knn", "mam"), seeds=(0,), steps=50, search="random", trials=2, folds=1
        ),
    )
