"""Decodes images to arrays of an encoder's size; untrusted bytes are bounded before they are decoded.

`reduction` first removes metadata. docs/adr/0010-decoding.md explains why some formats are refused, and how small a
JPEG may be decoded.
"""

import dataclasses
import io
import math
from collections.abc import Iterable

import numpy as np
from PIL import AvifImagePlugin, Image, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError

from pipelines.images import colors, reduction
from pipelines.images.formats.bare import Bare, RefusedError

# `decode` bounds the pixels itself, by the limit in the config.
Image.MAX_IMAGE_PIXELS = None
# Several threads and processes decode images at a time; if each of them started a thread for every processor, as Pillow
# does, they would wait for each other.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
# Pillow's own reader of TIFFs without compression knows neither planes of 16 bits nor subsampled colours.
TiffImagePlugin.READ_LIBTIFF = True

_MAX_SIDE, _MAX_RESIZED_SIDE = 4096, 1 << 20
# More pixels than this are decoded only if the encoded image has a byte for each so many of them. Otherwise a picture
# of one colour, some hundred bytes, could take the memory of the largest photograph.
_FREE_PIXELS, _PIXELS_PER_BYTE = 1 << 23, 1000
# Each scan of a progressive JPEG visits all pixels, at about 1 ns each, and may need no more than 150 bytes of data.
_MAX_SCANNED_PIXELS = 4_000_000_000
# A JPEG is decoded at 1/8, 1/4 or 1/2 if each side then has this many times the pixels that the encoders resize to.
_MARGINS = {8: 2.0, 4: 1.46, 2: 2.0}

_CROPS = ("center", "center_rounded", "squash")
_LAYOUTS = ("channels_last", "channels_first")
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
        """Stores the reason with the message."""
        super().__init__(message)
        self.reason = reason


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_ascending_pair(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value)) and value[0] < value[1]


@dataclasses.dataclass(frozen=True)
class ImagePreprocess:
    """How images are prepared for an encoder.

    Attributes:
        size: side of the square input, in pixels.
        crop_fraction: fraction of the resized shorter side that is kept.
        resize: `bicubic`, `bilinear`, `lanczos` or `area` (the mean of the pixels that an output pixel covers).
        crop: `center` resizes the shorter side to `size / crop_fraction` and crops the centre; `center_rounded` rounds
            the longer side and the corner of the crop down to whole pixels, as torchvision and transformers do;
            `squash` resizes both sides to `size`, ignoring the aspect.
        value_range: float32 values of black and white; None leaves uint8 for graphs that scale pixels themselves.
        mean: of red, green and blue in `value_range`, subtracted from them; None for no change.
        std: that the three are divided by afterwards; None for no change.
        layout: `channels_last` for batches `[B, size, size, 3]`, `channels_first` for `[B, 3, size, size]`.
    """

    size: int
    crop_fraction: float = 1.0
    resize: str = "bicubic"
    crop: str = "center"
    value_range: tuple[float, float] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    layout: str = "channels_last"

    def __post_init__(self) -> None:
        """Converts lists from JSON to tuples."""
        for name in ("value_range", "mean", "std"):
            if isinstance(value := getattr(self, name), list):
                object.__setattr__(self, name, tuple(value))

    def check(self) -> None:
        """Raises a `ValueError` that names the field that is wrong."""
        if type(self.size) is not int or not 1 <= self.size <= _MAX_SIDE:
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
        if self.value_range is not None and not _is_ascending_pair(self.value_range):
            raise ValueError("'value_range' must be null or two numbers, [low, high], the lower first")
        self._check_batches()

    def _check_batches(self) -> None:
        for name, value in (("mean", self.mean), ("std", self.std)):
            if value is None:
                continue
            if not isinstance(value, tuple) or len(value) != 3 or not all(map(_is_number, value)):
                raise ValueError(f"{name!r} must be null or three numbers, of red, green and blue")
            if self.value_range is None:
                raise ValueError(f"{name!r} is of values in 'value_range'; set that, to [0, 1] for the usual numbers")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError("'std' must be three numbers above 0")
        if self.layout not in list(_LAYOUTS):
            raise ValueError(f"'layout' must be one of {', '.join(_LAYOUTS)}")

    @property
    def resized_side(self) -> int:
        """Pixels that the shorter side is resized to, before the centre is cropped."""
        return round(self.size / self.crop_fraction)

    def scale(self, batch: np.ndarray) -> np.ndarray:
        """Returns pixels as a model takes them: in `value_range`, standardised, and in its layout.

        Args:
            batch: uint8 `[.., size, size, 3]`.

        Returns:
            float32, or uint8 if there is no `value_range`.
        """
        first = self.layout == "channels_first"
        if self.mean is None and self.std is None:
            scaled = batch if self.value_range is None else np.linspace(*self.value_range, 256, dtype=np.float32)[batch]
            return np.ascontiguousarray(np.moveaxis(scaled, -1, -3)) if first else scaled
        assert self.value_range is not None
        values = np.linspace(*self.value_range, 256)[:, None] - np.array(self.mean or (0, 0, 0))
        tables = (values / np.array(self.std or (1, 1, 1))).astype(np.float32)
        shape = (*batch.shape[:-3], 3, *batch.shape[-3:-1]) if first else batch.shape
        result = np.empty(shape, np.float32)
        for channel in range(3):
            target = result[..., channel, :, :] if first else result[..., channel]
            target[...] = tables[:, channel][batch[..., channel]]
        return result


@dataclasses.dataclass(frozen=True)
class Picture:
    """A decoded image.

    Attributes:
        image: upright RGB, perhaps at a reduced scale.
        width: of the upright image at full scale, in pixels.
        height: likewise.
        box: left, top, right and bottom of the part of `image` that the picture covers. At a reduced scale the last
            pixel of a line or column may cover fewer pixels than the others, and the shift would change the vectors.
    """

    image: Image.Image
    width: int
    height: int
    box: tuple[float, float, float, float]


def decode(data: bytes, max_pixels: int, preprocesses: Iterable[ImagePreprocess] = ()) -> Picture:
    """Decodes an image to upright RGB, on white if it is transparent; of an animation, decodes the first frame.

    Args:
        data: the encoded image, whose bytes determine the format.
        max_pixels: largest width times height that is decoded, at any scale. Decoding takes at most 24 bytes of memory
            a pixel, beside the data.
        preprocesses: with which `prepare` will be called. A JPEG with far more pixels than all of them need is decoded
            at 1/2, 1/4 or 1/8 of its size; without any, at full size.

    Raises:
        DecodeError: `EmptyImage`, `TooManyPixels`, `TooManyScans`, or `CannotDecode` if the bytes are not a whole image
            of a known format.
    """
    if not data:
        raise DecodeError("EmptyImage", "has 0 bytes")
    try:
        return _decode(reduction.bare(data), max_pixels, [preprocess.resized_side for preprocess in preprocesses])
    except DecodeError:
        raise
    except RefusedError as error:
        raise DecodeError("CannotDecode", str(error)) from error
    except UnidentifiedImageError as error:
        # Pillow's own message contains a memory address, and rejects must be the same in every run.
        raise DecodeError("CannotDecode", f"is no {', '.join(reduction.FORMATS)} image that can be read") from error
    except Exception as error:
        # Broken files raise anything from SyntaxError to struct.error.
        raise DecodeError("CannotDecode", f"{type(error).__name__}: {error}") from error


def of_pillow(image: Image.Image) -> Picture:
    """Returns an image that the caller has opened, upright and in the colours that `decode` gives its file."""
    upright = ImageOps.exif_transpose(image)
    # By which a BMP's alpha channel that was never written is known.
    upright.format = image.format
    rgb = colors.to_rgb(upright, Bare(b"", image.format))
    return Picture(rgb, rgb.width, rgb.height, (0.0, 0.0, float(rgb.width), float(rgb.height)))


def _decode(encoded: Bare, max_pixels: int, resized_sides: list[int]) -> Picture:
    rgb, (width, height), covered = _pixels(encoded, max_pixels, resized_sides)
    turn = encoded.orientation
    upright = rgb.transpose(_UPRIGHT[turn]) if turn in _UPRIGHT else rgb
    if turn >= 5:
        width, height, covered = height, width, covered[::-1]
    # Turning may move the last lines or columns to the front.
    left = upright.width - covered[0] if turn in (2, 3, 6, 7) else 0.0
    top = upright.height - covered[1] if turn in (3, 4, 7, 8) else 0.0
    return Picture(upright, width, height, (left, top, left + covered[0], top + covered[1]))


def _pixels(
    encoded: Bare, max_pixels: int, resized_sides: list[int]
) -> tuple[Image.Image, tuple[int, int], tuple[float, float]]:
    """Returns the image as it is stored in RGB, its size at full scale, and the part that the picture covers."""
    if encoded.format is None:
        raise UnidentifiedImageError
    with Image.open(io.BytesIO(encoded.data), formats=(encoded.format,)) as image:
        size = encoded.canvas or image.size
        _check_cost(image, encoded, max_pixels)
        covered = _reduce(image, resized_sides)
        image.load()
        return colors.to_rgb(image, encoded), size, encoded.canvas or covered


def _check_cost(image: ImageFile.ImageFile, encoded: Bare, max_pixels: int) -> None:
    """Raises a `DecodeError` if decoding would take too much memory or time."""
    if image.tile and image.tile[0].codec_name == "bmp_rle":
        # One skip of this code, 4 bytes, may fill 255 rows of any width.
        raise DecodeError("CannotDecode", "is a run-length encoded BMP, which is not supported")
    sizes = [size for size in (image.size, encoded.canvas, encoded.coded) if size]
    width, height = (max(sides) for sides in zip(*sizes, strict=True))
    pixels, size = width * height, len(encoded.data)
    if pixels > max_pixels:
        raise DecodeError("TooManyPixels", f"{width} x {height}, the limit is {max_pixels:,} pixels")
    if pixels > max(_FREE_PIXELS, _PIXELS_PER_BYTE * size):
        said = f"{width} x {height} from {size:,} bytes of data"
        limit = f"above {_FREE_PIXELS:,} pixels, the limit is {_PIXELS_PER_BYTE:,} pixels for each byte"
        raise DecodeError("TooManyPixels", f"{said}; {limit}")
    if encoded.scans * pixels > _MAX_SCANNED_PIXELS:
        raise DecodeError("TooManyScans", f"{encoded.scans} scans of {width} x {height} pixels")


def _reduce(image: ImageFile.ImageFile, resized_sides: list[int]) -> tuple[float, float]:
    """Sets the scale at which a JPEG is decoded; returns the width and height that the picture covers at that scale."""
    if resized_sides:
        sides = min(image.size) / max(resized_sides)
        scale = next((scale for scale, margin in _MARGINS.items() if sides >= scale * margin), 1)
        width, height = image.size
        if scale > 1 and (reduced := image.draft(None, (width // scale, height // scale))):
            return reduced[1][2:]
    return image.size


def prepare(picture: Picture, preprocess: ImagePreprocess) -> np.ndarray:
    """Returns a picture as uint8 `[size, size, 3]`."""
    left, top, right, bottom = picture.box
    if preprocess.crop == "center_rounded":
        left, top, right, bottom = _rounded(picture, preprocess)
    elif preprocess.crop == "center":
        # Cropping and resizing in one call reads only the pixels that are kept.
        width, height = right - left, bottom - top
        # Rounding may make it longer than the shorter side, which Pillow refuses.
        side = min(preprocess.size / (preprocess.resized_side / min(width, height)), width, height)
        left, top = left + (width - side) / 2, top + (height - side) / 2
        right, bottom = left + side, top + side
    size = (preprocess.size, preprocess.size)
    return np.asarray(picture.image.resize(size, _RESAMPLING[preprocess.resize], box=(left, top, right, bottom)))


def _rounded(picture: Picture, preprocess: ImagePreprocess) -> tuple[float, float, float, float]:
    """Returns the part of a picture that is kept if it is first resized to whole pixels, and cropped at one."""
    left, top, right, bottom = picture.box
    side, shorter = preprocess.resized_side, min(picture.width, picture.height)
    across, down = side * picture.width // shorter, side * picture.height // shorter
    x, y = (right - left) / across, (bottom - top) / down
    left, top = left + (across - preprocess.size) // 2 * x, top + (down - preprocess.size) // 2 * y
    # Rounding may reach behind the end, which Pillow refuses.
    return left, top, min(left + preprocess.size * x, right), min(top + preprocess.size * y, bottom)
