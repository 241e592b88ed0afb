"""Encoded image bytes to arrays of an encoder's size; untrusted bytes are bounded before they are decoded.

Metadata is cut off by `image_bytes` first. docs/adr/0010-decoding.md says why some formats are refused, and how small
a JPEG may be decoded.
"""

import dataclasses
import io
import math
from collections.abc import Iterable

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipelines.images import image_bytes

# `decode` bounds the pixels itself, by what the config says.
Image.MAX_IMAGE_PIXELS = None

_MAX_SIDE, _MAX_RESIZED_SIDE = 4096, 1 << 20
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
# Each scan of a progressive JPEG visits all pixels, at about 1 ns each, and may take no more than 150 bytes to ask for.
_MAX_SCANNED_PIXELS = 4_000_000_000
# A JPEG is decoded at 1/8, 1/4 or 1/2 if that leaves so many times the pixels a side that the encoders resize to.
_MARGINS = {8: 2.0, 4: 1.46, 2: 2.0}

_CROPS = ("center", "squash")
_RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "area": Image.Resampling.BOX,
}
# By the orientation of the EXIF standard.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class DecodeError(ValueError):
    """An image that cannot be used; `reason` is its type in the rejects table."""

    def __init__(self, reason: str, message: str) -> None:
        """Keeps the reason beside the message."""
        super().__init__(message)
        self.reason = reason


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclasses.dataclass(frozen=True)
class ImagePreprocess:
    """How an encoder wants its images.

    Attributes:
        size: side of the square input, in pixels.
        crop_fraction: share of the resized shorter side that is kept.
        resize: `bicubic`, `bilinear`, `lanczos` or `area` (the mean of the pixels that an output pixel covers).
        crop: `center` resizes the shorter side to `size / crop_fraction` and crops the centre; `squash` resizes both
            sides to `size`, whatever the aspect.
        value_range: what black and white become, as float32; None leaves uint8 for graphs that scale themselves.
    """

    size: int
    crop_fraction: float = 1.0
    resize: str = "bicubic"
    crop: str = "center"
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Takes the list that JSON has for a tuple."""
        if isinstance(self.value_range, list):
            object.__setattr__(self, "value_range", tuple(self.value_range))

    def check(self) -> None:
        """Raises a `ValueError` that names the field that is wrong."""
        if not isinstance(self.size, int) or isinstance(self.size, bool) or not 1 <= self.size <= _MAX_SIDE:
            raise ValueError(f"'size' must be 1 to {_MAX_SIDE} pixels")
        if not _is_number(self.crop_fraction) or not 0 < self.crop_fraction <= 1:
            raise ValueError("'crop_fraction' must be more than 0 and at most 1")
        if self.resized_side > _MAX_RESIZED_SIDE:
            raise ValueError(f"'size' over 'crop_fraction' must be at most {_MAX_RESIZED_SIDE:,} pixels")
        if self.resize not in list(_RESAMPLING):
            raise ValueError(f"'resize' must be one of {', '.join(_RESAMPLING)}")
        if self.crop not in _CROPS:
            raise ValueError(f"'crop' must be one of {', '.join(_CROPS)}")
        if self.crop == "squash" and self.crop_fraction != 1:
            raise ValueError("'crop_fraction' must be 1 where 'crop' is squash, which keeps the whole image")
        if self.value_range is None:
            return
        pair = isinstance(self.value_range, tuple) and len(self.value_range) == 2
        if not pair or not all(map(_is_number, self.value_range)) or self.value_range[0] >= self.value_range[1]:
            raise ValueError("'value_range' must be null or two numbers, [low, high], the lower first")

    @property
    def resized_side(self) -> int:
        """Pixels that the shorter side is resized to, before the centre is cropped."""
        return round(self.size / self.crop_fraction)

    def scale(self, batch: np.ndarray) -> np.ndarray:
        """Returns uint8 pixels of any shape as float32 from `value_range`, or as they are where that is None."""
        if self.value_range is None:
            return batch
        return np.linspace(*self.value_range, 256, dtype=np.float32)[batch]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A decoded image.

    Attributes:
        image: upright RGB, perhaps at a reduced scale.
        width: pixels that the upright image has in full.
        height: likewise.
        box: left, top, right and bottom of the part of `image` that the picture covers. At a reduced scale the last
            pixel of a line or column may stand for fewer than the others; an encoder notices what it is shifted by.
    """

    image: Image.Image
    width: int
    height: int
    box: tuple[float, float, float, float]


def decode(data: bytes, max_pixels: int, preprocesses: Iterable[ImagePreprocess] = ()) -> Picture:
    """Decodes an image to upright RGB; transparency is laid on white, of an animation the first frame is taken.

    Args:
        data: the encoded image. Its own bytes tell the format, not a name.
        max_pixels: largest width times height that is decoded, at whatever scale. Decoding takes at most 24 bytes of
            memory for each, beside the data.
        preprocesses: what `prepare` will be asked for. A JPEG with far more pixels than all of them need is decoded at
            1/2, 1/4 or 1/8 of its size; where there are none, in full.

    Raises:
        DecodeError: `EmptyImage`, `TooManyPixels`, `TooManyScans`, or `CannotDecode` if the bytes are no whole image
            of a known format.
    """
    if not data:
        raise DecodeError("EmptyImage", "has 0 bytes")
    try:
        return _decode(image_bytes.bare(data), max_pixels, [preprocess.resized_side for preprocess in preprocesses])
    except DecodeError:
        raise
    except UnidentifiedImageError as error:
        # Pillow's own words name an address in memory, and rejects are the same in every run.
        raise DecodeError("CannotDecode", f"is no {', '.join(_FORMATS)} image that can be read") from error
    except Exception as error:
        # Broken files raise anything from SyntaxError to struct.error, whatever the plugin met first.
        raise DecodeError("CannotDecode", f"{type(error).__name__}: {error}") from error


def _decode(encoded: image_bytes.Bare, max_pixels: int, resized_sides: list[int]) -> Picture:
    with Image.open(io.BytesIO(encoded.data), formats=_FORMATS) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise DecodeError("TooManyPixels", f"{width} x {height}, the limit is {max_pixels:,} pixels")
        if encoded.scans * width * height > _MAX_SCANNED_PIXELS:
            raise DecodeError("TooManyScans", f"{encoded.scans} scans of {width} x {height} pixels")
        if image.tile and image.tile[0].codec_name == "bmp_rle":
            # One skip of this code, 4 bytes, may fill 255 rows of any width.
            raise DecodeError("CannotDecode", "is a run-length encoded BMP, which is not supported")
        covered: tuple[float, float] = image.size
        if resized_sides:
            sides = min(image.size) / max(resized_sides)
            scale = next((scale for scale, margin in _MARGINS.items() if sides >= scale * margin), 1)
            if scale > 1 and (reduced := image.draft(None, (width // scale, height // scale))):
                covered = reduced[1][2:]
        image.load()
        # The EXIF of a JPEG or PNG has been cut off, that of a WebP is here.
        orientation = max(encoded.orientation, image_bytes.orientation(image.info.get("exif", b"")))
        upright = image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image
    if orientation >= 5:
        width, height, covered = height, width, covered[::-1]
    # Turning may bring the last lines or columns to the front.
    left = upright.width - covered[0] if orientation in (2, 3, 6, 7) else 0.0
    top = upright.height - covered[1] if orientation in (3, 4, 7, 8) else 0.0
    return Picture(_to_rgb(upright), width, height, (left, top, left + covered[0], top + covered[1]))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow clips 16-bit greys at 255 instead of scaling them.
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    # Even where nothing is to be converted, `convert` copies.
    return image if image.mode == "RGB" else image.convert("RGB")


def prepare(picture: Picture, preprocess: ImagePreprocess) -> np.ndarray:
    """Returns a picture as uint8 `[size, size, 3]`."""
    left, top, right, bottom = picture.box
    if preprocess.crop == "center":
        # Cropping and resizing in one call touches only the pixels that are kept.
        width, height = right - left, bottom - top
        side = preprocess.size / (preprocess.resized_side / min(width, height))
        left, top = left + (width - side) / 2, top + (height - side) / 2
        right, bottom = left + side, top + side
    size = (preprocess.size, preprocess.size)
    return np.asarray(picture.image.resize(size, _RESAMPLING[preprocess.resize], box=(left, top, right, bottom)))
