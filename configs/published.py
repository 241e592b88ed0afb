"""What the configs of published datasets share: LAION-400M as memory, both kinds of values, and larger batches.

Not a config of its own: imagenet_lt.py, places_lt.py, inat21_mini.py and webvision.py name the data and the loss.
"""

from configs.base import Config, Encoders, Source, Train

TRAIN = Train(
    values=("text", "image"),
    batch_size=512,
    many_over=100,
    few_under=20,
)
CONFIG = Config(
    data="data",
    memory=Source(format="img2dataset", path="laion400m/*.tar"),
    # The paper's values are of a larger image encoder and of a text encoder.
    encoders=Encoders(value_image=("efficientnet-lite2",)),
)
