"""Captions that say nothing of their images, embedded: what machines write, or the lines of a file."""

from collections.abc import Sequence

import numpy as np

from configs.base import Embed, Encoders
from pipelines import class_names
from pipelines.errors import UserError
from pipelines.schemas import EncoderInfo

COLUMN = "value_text"
# What cameras, phones, content systems and shops write where a caption should be.
_TEMPLATES = (
    "IMG_{:04d}.JPG",
    "DSC{:05d}",
    "Screenshot 2021-03-{:02d} at 10.22.{:02d}.png",
    "WhatsApp Image 2019-08-{:02d} ({:d})",
    "untitled-{:d}",
    "{:08x}{:08x}.jpeg",
    "image/jpeg {:d}x{:d}",
    "SKU {:06d} | Free Shipping | Buy Now",
    "Page {:d} of {:d}",
    "click here to enlarge ({:d})",
    "wp-content/uploads/2016/{:02d}/{:d}-300x{:d}.jpg",
)
# More numbers than any template takes.
_NUMBERS = 3


def junk(count: int, seed: int) -> list[str]:
    """Returns some captions that no person wrote, drawn with a seed."""
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, 10_000, (count, _NUMBERS)).tolist()
    return [
        _TEMPLATES[which].format(*row)
        for which, row in zip(rng.integers(len(_TEMPLATES), size=count), numbers, strict=True)
    ]


def read(path: str) -> tuple[str, ...]:
    """Returns the lines of a text file that are not blank; a `UserError` if it cannot be read or has none."""
    known = tuple(line.strip() for _, line in class_names.read_lines(path) if line.strip())
    if not known:
        raise UserError(f"{path}: has no line; give a text file with a caption on each line")
    return known


def draw(known: Sequence[str], count: int, seed: int) -> list[str]:
    """Returns captions that are drawn from known ones with a seed."""
    rng = np.random.default_rng(seed)
    return [known[place] for place in rng.integers(len(known), size=count)]


def embed(captions: Sequence[str], encoders: Encoders, embed: Embed, info: EncoderInfo) -> np.ndarray:
    """Returns the text values of captions, as the memory has them, float32 `[n, V]`.

    Args:
        captions: a caption that occurs often is embedded once.
        encoders: config of the encoders.
        embed: batch size.
        info: of the memory's text values.

    Raises:
        UserError: if the config has no such encoder.
    """
    from pipelines.encoders import handles, loaded

    handle, _ = handles.columns(encoders).get(COLUMN, ("", ""))
    if not handle or handle.startswith(handles.PRECOMPUTED):
        raise UserError("--vary=captions: embeds captions; set --config.encoders.value_text to a text encoder")
    spec = handles.configured(handle, encoders)
    if spec.info.fingerprint != info.fingerprint:
        raise UserError(
            f"--config.encoders.value_text={handle}: is not the encoder of the memory's text values; name the one that "
            "it was embedded with"
        )
    distinct, back = np.unique(np.array(captions, object), return_inverse=True)
    vectors = loaded.TextEncoder(spec).encode_all(distinct.tolist(), embed.batch_size)
    return (loaded.unit(vectors) if info.normalized else vectors)[back]
