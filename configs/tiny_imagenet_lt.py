"""Long-tailed Tiny-ImageNet with 15,060 web pairs as memory.

    web-memory run --config=configs/tiny_imagenet_lt.py --config.data=/path/to/data

One method alone: `--config.train.heads=linear` (docs/config.md lists all).

Hardware: 2 cores of an AMD EPYC, 24 GiB, no accelerator. Embedding 23,481 images and 15,060 captions takes 6 minutes.
Test accuracy in percent over 5 seeds, all (few-shot): linear 50.7 (39.3), mlp 50.1 (38.2), mean_knn 52.6 (44.4), mam
55.9 (51.4), real_linear 59.7 (61.1), guarded 62.1 (62.4), mam_names 63.5 (62.7); docs/results.md has all heads and the
intervals.

The data folder has `tiny_imagenet_lt/` (images/, the lists TinyImageNet_LT_{train,val,test}.txt with lines
`relative/path label`, and classnames.txt with lines `wnid<TAB>name`) and `web_pairs/*.tar` as img2dataset writes them.
With so few images in a class the shot groups are many > 30, medium 10 to 30, few < 10: 40, 68 and 92 of 200 classes.
The paper has no figures for this cut, and the built-in encoders have seen its classes (docs/datasets.md).
"""

from configs.base import Config, Encoders, Protocol, Source, Train


def get_config() -> Config:
    """Returns the configuration; give the data folder as `--config.data=..`."""
    return Config(
        data="data",
        workdir="out/tiny_imagenet_lt",
        memory=Source(format="img2dataset", path="web_pairs/*.tar"),
        train_set=_split("train"),
        val_set=_split("val"),
        test_set=_split("test"),
        class_names="tiny_imagenet_lt/classnames.txt",
        # The border of a thumbnail shows a part of the thing: without it a linear head lost 3.4 points.
        encoders=Encoders(crop_fraction=1.0),
        protocol=Protocol(train_rows=3421, val_rows=1000, test_rows=4000, classes=200, classes_per_group=(40, 68, 92)),
        # All else about training is the default.
        train=Train(many_over=30, few_under=10),
    )


def _split(name: str) -> Source:
    path = f"tiny_imagenet_lt/TinyImageNet_LT_{name}.txt"
    return Source(format="image_list", path=path, image_root="tiny_imagenet_lt/images")
