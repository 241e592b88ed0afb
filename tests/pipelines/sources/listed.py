"""Folders of small images and the reading of lists that name them: for the tests of list formats only."""

import io
import pathlib

from PIL import Image

from configs.base import Embed, Source
from pipelines import sources

EMBED = Embed(max_image_bytes=2000, list_shard_rows=2)


def image(seed: int) -> bytes:
    """Returns a JPEG of one colour, different for each seed."""
    data = io.BytesIO()
    Image.new("RGB", (8, 8), (seed * 37 % 256, seed * 11 % 256, 9 + seed)).save(data, "JPEG")
    return data.getvalue()


def write_images(root: pathlib.Path, *names: str) -> dict[str, bytes]:
    """Writes a different image under each name; returns their bytes by name."""
    images = {name: image(seed) for seed, name in enumerate(names)}
    for name, data in images.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return images


def plan(root: pathlib.Path | str, source: Source, embed: Embed = EMBED) -> list[sources.InputShard]:
    """Plans a source; its listings are in the folder `listings`."""
    return sources.plan(source, str(root), embed, f"{root}/listings")


def read(root: pathlib.Path | str, source: Source, embed: Embed = EMBED) -> list:
    """Returns what all shards of a source give."""
    return [item for shard in plan(root, source, embed) for item in sources.read(shard, embed)]
