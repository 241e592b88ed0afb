"""Encoded image bytes to uint8 arrays of an encoder's size; untrusted bytes are bounded before they are decoded."""

import dataclasses
import io

import numpy as np
from PIL import Image, ImageOps

# `decode` bounds the pixels itself, by what the config says.
Image.MAX_IMAGE_PIXELS = None

_MAX_SIDE = 4096
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


class DecodeError(ValueError):
    """An image that cannot be used; `reason` is its type in the rejects table."""

    def __init__(self, reason: str, message: str) -> None:
        """Keeps the reason beside the message."""
        super().__init__(message)
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class ImagePreprocess:
    """How an encoder wants its images: the shorter side is resized to `size / crop_fraction`, the centre cropped.

    Attributes:
        size: side of the square input, in pixels.
        crop_fraction: share of the resized shorter side that is kept.
        resize: `bicubic` or `bilinear`.
    """

    size: int
    crop_fraction: float
    resize: str

    def check(self) -> None:
        """Raises a `ValueError` that names the field that is wrong."""
        if not isinstance(self.size, int) or not 1 <= self.size <= _MAX_SIDE:
            raise ValueError(f"'size' must be 1 to {_MAX_SIDE} pixels")
        if not isinstance(self.crop_fraction, int | float) or not 0 < self.crop_fraction <= 1:
            raise ValueError("'crop_fraction' must be more than 0 and at most 1")
        if self.resize not in _RESAMPLING:
            raise ValueError(f"'resize' must be one of {', '.join(_RESAMPLING)}")


def decode(data: bytes, max_pixels: int) -> Image.Image:
    """Decodes an image to upright RGB; transparency is laid on white, of an animation the first frame is taken.

    Args:
        data: the encoded image.
        max_pixels: largest width times height that is decoded.

    Raises:
        DecodeError: if the bytes are no whole image of a known format, or it is too large.
    """
    if not data:
        raise DecodeError("EmptyImage", "has 0 bytes")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise DecodeError(
                    "TooManyPixels", f"{image.width} x {image.height}, the limit is {max_pixels:,} pixels"
                )
            image.load()
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):
                # Pillow clips 16-bit greys at 255 instead of scaling them.
                upright = Image.fromarray((np.asarray(upright).astype(np.uint32) >> 8).astype(np.uint8))
            if upright.has_transparency_data:
                canvas = Image.new("RGBA", upright.size, "white")
                upright = Image.alpha_composite(canvas, upright.convert("RGBA"))
            return upright.convert("RGB")
    except DecodeError:
        raise
    except Exception as error:
        # Broken files raise anything from SyntaxError to struct.error, whatever the plugin met first.
        raise DecodeError("CannotDecode", f"{type(error).__name__}: {error}") from error


def prepare(image: Image.Image, preprocess: ImagePreprocess) -> np.ndarray:
    """Returns an RGB image as uint8 `[size, size, 3]`."""
    target = round(preprocess.size / preprocess.crop_fraction)
    scale = target / min(image.size)
    side = preprocess.size / scale
    left, top = (image.width - side) / 2, (image.height - side) / 2
    # Cropping and resizing in one call touches only the pixels that are kept.
    box = (left, top, left + side, top + side)
    size = (preprocess.size, preprocess.size)
    return np.asarray(image.resize(size, _RESAMPLING[preprocess.resize], box=box))
