"""What a caller gives as a photograph, as pixels for an encoder; untrusted bytes are bounded as in the embed stage."""

import dataclasses
import hashlib
import os
from typing import Any

import numpy as np
from PIL import Image

from configs.base import Embed
from pipelines import storage
from pipelines.errors import UserError, one_line
from pipelines.images import decode
from pipelines.images.decode import DecodeError, ImagePreprocess
from pipelines.sources import patterns, pictures


@dataclasses.dataclass(frozen=True)
class Pixels:
    """A photograph as an encoder takes it.

    Attributes:
        pixels: uint8 `[size, size, 3]`.
        image: SHA-256 of the encoded image; None for one without bytes.
    """

    pixels: np.ndarray
    image: bytes | None


def files(images: str) -> list[str]:
    """Returns the files that a path or a pattern names, none for a folder; a file that exists is no pattern.

    Raises:
        UserError: if there is nothing of that name, or its store cannot be asked.
    """
    try:
        if storage.found(images):
            return [images]
        return [] if storage.entries(images) else [file.uri for file in patterns.files(images)]
    except OSError as error:
        raise UserError(f"{images}: cannot be reached, {one_line(error)}") from error


def is_one(given: Any) -> bool:
    """Tells whether something is one photograph, not several."""
    is_array = isinstance(given, np.ndarray) and given.ndim == 3
    return is_array or isinstance(given, str | bytes | bytearray | memoryview | os.PathLike | Image.Image | Pixels)


def read(given: Any, name: str, preprocess: ImagePreprocess, embed: Embed) -> Pixels:
    """Reads and decodes a photograph.

    Args:
        given: path or URL of a file, encoded bytes, a Pillow image, a uint8 array `[H, W, 3]`, or what is read already.
        name: what to call it in errors; a path is called by itself.
        preprocess: of the encoder.
        embed: limits of images.

    Raises:
        UserError: if it cannot be read or decoded, or is something else.
    """
    if isinstance(given, Pixels):
        return given
    if isinstance(given, str | os.PathLike):
        given = os.fspath(given)
        name, given = given, pictures.read_file(given, embed.max_image_bytes)
    if isinstance(given, bytes | bytearray | memoryview):
        data = bytes(given)
        if len(data) > embed.max_image_bytes:
            raise UserError(f"{name}: has more than {embed.max_image_bytes:,} bytes")
        try:
            picture = decode.decode(data, embed.max_image_pixels, [preprocess])
        except DecodeError as error:
            raise UserError(f"{name}: {error}") from error
        return Pixels(decode.prepare(picture, preprocess), hashlib.sha256(data).digest())
    if isinstance(given, np.ndarray):
        if given.dtype != np.uint8 or given.ndim != 3 or given.shape[2] != 3 or not given.size:
            raise UserError(f"{name}: is an array of {given.dtype} {list(given.shape)}; give uint8 [height, width, 3]")
        given = Image.fromarray(given)
    if not isinstance(given, Image.Image):
        raise UserError(
            f"{name}: is of type {type(given).__name__}; give a path, bytes, a Pillow image or a uint8 array"
        )
    if given.mode in ("I", "F"):
        raise UserError(f"{name}: is of Pillow's mode {given.mode}, whose black and white are not known; give L or RGB")
    if given.width * given.height > embed.max_image_pixels:
        raise UserError(f"{name}: {given.width} x {given.height}, the limit is {embed.max_image_pixels:,} pixels")
    try:
        picture = decode.of_pillow(given)
    except Exception as error:
        # A Pillow image reads its file as late as here; broken files raise anything.
        raise UserError(f"{name}: {type(error).__name__}: {one_line(error)}") from error
    return Pixels(decode.prepare(picture, preprocess), None)
