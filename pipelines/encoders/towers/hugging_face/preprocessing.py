"""`preprocessor_config.json` of a Hugging Face folder: how its images are resized, cropped and scaled."""

import dataclasses
import math
import pathlib
from typing import Any, TypeGuard

from pipelines.encoders.towers.hugging_face import weights
from pipelines.errors import UserError

FILE = "preprocessor_config.json"
# By Pillow's numbers.
_FILTERS = {"1": "lanczos", "2": "bilinear", "3": "bicubic", "4": "area"}
_RESCALE = 1 / 255


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What happens to an image before its tower.

    Attributes:
        preprocess: fields of `pipelines.images.decode.ImagePreprocess`.
        mean: of each channel of pixels of 0 to 1, which is subtracted.
        std: of each channel, which they are then divided by.
    """

    preprocess: dict[str, Any]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def read(folder: pathlib.Path) -> Preprocessing:
    """Returns the preprocessing of a folder.

    Raises:
        UserError: if the file is missing, or asks for what is not done here.
    """
    path = folder / FILE
    found = weights.read_object(path, "how images are resized and scaled")

    def refuse(what: str) -> UserError:
        return UserError(f"{path}: {what}; convert the model to a SavedModel or ONNX (docs/encoders.md)")

    if found.get("do_resize") is False:
        raise refuse("'do_resize' is false, but the model takes images of one size")
    if found.get("do_pad"):
        raise refuse("'do_pad' is true, but images are cropped or squashed to a square")
    resize = _FILTERS.get(str(found.get("resample", 3)))
    if resize is None:
        raise refuse(f"'resample' is {found.get('resample')!r}, not one of {', '.join(_FILTERS)}")
    factor = found.get("rescale_factor", _RESCALE)
    if found.get("do_rescale") is False or not isinstance(factor, float) or not abs(factor - _RESCALE) < 1e-6:
        raise refuse("'rescale_factor' is not 1/255, or 'do_rescale' is false")
    scales = [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0)]
    if found.get("do_normalize") is not False:
        mean, std = _triple(found.get("image_mean")), _triple(found.get("image_std"))
        if mean is None or std is None or not all(std):
            raise refuse("'image_mean' and 'image_std' must be three numbers each, no std of them 0")
        scales = [mean, std]
    size = _side(found.get("size"), ("height", "width"))
    shorter = _side(found.get("size"), ("shortest_edge",)) or (found["size"] if _is_side(found.get("size")) else 0)
    crop = 0
    if found.get("do_center_crop"):
        given = found.get("crop_size")
        crop = given if _is_side(given) else _side(given, ("height", "width"))
    if size and crop in (0, size):
        preprocess: dict[str, Any] = {"size": size, "crop": "squash", "resize": resize}
    elif shorter and crop and crop <= shorter:
        preprocess = {"size": crop, "crop_fraction": crop / shorter, "crop": "center_rounded", "resize": resize}
    elif shorter and not found.get("do_center_crop") and "shortest_edge" not in _names(found.get("size")):
        # An old file of SigLIP or ViT: one number is both sides.
        preprocess = {"size": shorter, "crop": "squash", "resize": resize}
    else:
        raise refuse(f"'size' {found.get('size')!r} and 'crop_size' {found.get('crop_size')!r} give no square image")
    return Preprocessing(preprocess, *scales)


def _names(value: Any) -> tuple[str, ...]:
    return tuple(value) if isinstance(value, dict) else ()


def _is_side(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _side(size: Any, names: tuple[str, ...]) -> int:
    """Returns the side that an object gives under all of these names; 0 if it does not."""
    sides = [size.get(name) for name in names] if isinstance(size, dict) else []
    first = sides[0] if sides and all(side == sides[0] for side in sides) else 0
    return first if _is_side(first) else 0


def _triple(value: Any) -> tuple[float, float, float] | None:
    numbers = [n for n in value if type(n) in (int, float) and math.isfinite(n)] if isinstance(value, list) else []
    return (float(numbers[0]), float(numbers[1]), float(numbers[2])) if len(numbers) == 3 == len(value) else None
