"""A labelled dataset and a memory cut out of real photographs, and a ViT of a few random weights to embed them."""

import pathlib

import numpy as np
from PIL import Image
from skimage import data

from tests.pipelines import vit_files

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "retina", "immunohistochemistry")
SPLITS = {"train": 8, "val": 3, "test": 3, "memory": 12}
VIT = vit_files.Shape(patch=8, width=32, depth=2, heads=2, mlp_dim=64, grid=4)
SIDE = 32


def write(root: pathlib.Path) -> pathlib.Path:
    """Writes JPEGs, lists, two checkpoints (`key.npz`, `value.npz`) and `config.py`; returns the last.

    A class is one photograph, of which each image is a crop of a place and size of its own.
    """
    rng = np.random.default_rng(0)
    lists = {split: [] for split in SPLITS}
    for label, photo in enumerate(PHOTOS):
        pixels = Image.fromarray(getattr(data, photo)()[..., :3])
        for split, count in SPLITS.items():
            for number in range(count):
                side = int(rng.integers(100, 200))
                x, y = rng.integers(0, pixels.width - side), rng.integers(0, pixels.height - side)
                name = f"{split}/{photo}-{number}.jpg"
                path = root / "images" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels.crop((x, y, x + side, y + side)).resize((72, 60)).save(path, quality=95)
                lists[split].append(f"{name} {label}\n")
    for split, lines in lists.items():
        (root / f"{split}.txt").write_text("".join(lines))
    for seed, name in enumerate(("key", "value")):
        vit_files.write(root / f"{name}.npz", vit_files.LAYOUTS["augreg"].of_depth(VIT.depth), VIT, seed)
    config = root / "config.py"
    config.write_text(f"""
from configs.base import Config, Embed, Encoders, Filters, Finetune, Index, Neighbors, Source, Train

def _list(name):
    return Source(format="image_list", path=f"{{name}}.txt", image_root="images")

def get_config():
    return Config(
        data={str(root)!r},
        workdir={str(root / "out")!r},
        memory=_list("memory"),
        train_set=_list("train"),
        val_set=_list("val"),
        test_set=_list("test"),
        encoders=Encoders(key={str(root / "key.npz")!r}, value_image=({str(root / "value.npz")!r},), value_text=()),
        embed=Embed(batch_size=8, threads=1),
        filters=Filters(leakage=0.0),
        index=Index(searcher="exact", shards=1, k=5),
        neighbors=Neighbors(k=5),
        train=Train(
            heads=("linear", "mam"),
            values=("image",),
            attention_dim=4,
            value_dim=8,
            space=("value_scale=0",),
            batch_size=16,
            trials=1,
            folds=1,
            steps=20,
            learning_rates=(0.003,),
            dropouts=(0.0,),
            seeds=(0,),
            checkpoint_every=10,
        ),
        finetune=Finetune(
            batch_size=16, steps=12, checkpoint_every=6, workers=0, learning_rates=(0.003,), encoder_ratios=(0.1,)
        ),
    )
""")
    return config
