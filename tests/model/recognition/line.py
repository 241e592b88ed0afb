"""A whole line of tiny encoders and coloured pictures, whose classes are colours: embedded, indexed, trained."""

import io
import pathlib

import numpy as np
from PIL import Image

from index import build, neighbors
from model import train
from pipelines import embed
from tests.pipelines import tiny_encoders as tiny
from tests.world import PLAIN_TRIALS

COLORS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 40, 50)}
ROWS = 12
HEADS = ("linear", "guarded", "knn_vote", "mam", "mam_names", "mean_knn")
# One setting of each axis of knn_vote.
_VOTE = "vote.pruning=soft,vote.most_wrong=8,vote.weights=rank,vote.temperature=0.07,vote.one_class=true"


def picture(color: str, seed: int) -> bytes:
    """Returns a PNG that is mostly of a colour."""
    noise = np.random.default_rng(seed).integers(-40, 40, (20, 24, 3))
    pixels = np.clip(np.array(COLORS[color]) + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


class Line:
    """The folders below a root, and the command line of every stage."""

    def __init__(self, root: pathlib.Path, **flags: object) -> None:
        """Writes the images."""
        self.root = root
        tiny.save_image_encoder(root / "image")
        tiny.save_text_encoder(root / "words")
        names = list(COLORS)
        pairs = [(f"{i:04d}", picture(names[i % 3], i), f"a {names[i % 3]} dog") for i in range(ROWS)]
        tiny.write_tar(root / "pairs/00000.tar", pairs[: ROWS // 2])
        tiny.write_tar(root / "pairs/00001.tar", pairs[ROWS // 2 :])
        for number, (split, count) in enumerate({"train": 6, "val": 4, "test": 5}.items(), 1):
            for name in names:
                (root / split / name).mkdir(parents=True)
                for i in range(count):
                    data = picture(name, 1000 * number + 10 * i + names.index(name))
                    (root / split / name / f"{i}.png").write_bytes(data)
        (root / "names.txt").write_text("".join(f"{name}\n" for name in names))
        (root / "config.py").write_text("from configs.base import Config\ndef get_config():\n    return Config()\n")
        self.flags = {
            "data": root,
            "workdir": root / "out",
            "memory.path": "pairs/*.tar",
            "class_names": "names.txt",
            "encoders.key": root / "image",
            "encoders.value_image": "",
            "encoders.value_text": root / "words",
            "embed.batch_size": 4,
            "filters.leakage": 0,
            "index.searcher": "exact",
            "index.shards": 1,
            "index.k": 5,
            "neighbors.k": ROWS,
            "train.heads": ",".join(HEADS),
            "train.values": "text",
            "train.steps": 20,
            "train.batch_size": 8,
            "train.learning_rates": 0.01,
            "train.dropouts": 0.0,
            "train.seeds": "0,1",
            "train.attention_dim": 4,
            "train.value_dim": 8,
            **PLAIN_TRIALS,
            "train.similarity": "whitened",
            "train.value_scale": 1.0,
            "finetune.head": "mam",
            "train.space": f"k=0,similarity=whitened,value_scale=1,{_VOTE}",
            **{f"{split}_set.format": "image_folder" for split in ("train", "val", "test")},
            **{f"{split}_set.path": split for split in ("train", "val", "test")},
            **flags,
        }

    def argv(self, *more: str) -> list[str]:
        """Returns the arguments of a stage."""
        fields = [f"--config.{name}={value}" for name, value in self.flags.items()]
        return [f"--config={self.root / 'config.py'}", *fields, *more]

    def run(self) -> "Line":
        """Runs every stage."""
        for stage in (embed, build, neighbors):
            assert stage.main(self.argv("--runner=FnApiRunner")) == 0
        assert train.main(self.argv()) == 0
        return self

    @property
    def workdir(self) -> pathlib.Path:
        """Folder of the outputs."""
        return self.root / "out"

    @property
    def runs(self) -> pathlib.Path:
        """Folder of the trained heads."""
        (folder,) = (self.workdir / "runs").glob("????????")
        return folder

    def photographs(self, split: str = "test") -> list[str]:
        """Returns the paths of the images of a split, in the order of their rows."""
        return [str(path) for path in sorted((self.root / split).glob("*/*.png"))]
