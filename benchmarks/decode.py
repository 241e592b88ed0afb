"""Time that decoding JPEGs at a reduced scale saves, and how it changes their vectors.

    python benchmarks/decode.py
    python benchmarks/decode.py --images=FOLDER --encoder=efficientnet-lite2

Without a folder, photographs are made from those of scikit-image: enlarged, with the noise of a sensor, or many side by
side, to 2000 x 1500 pixels, as JPEGs of quality 85 to 95 with 4:2:0. Enlarged photographs have less detail than a
camera's, mosaics more. Full and reduced decoding, each with `prepare`, alternate over all photographs, in one thread.
Processor time is measured, since other processes disturb it less than wall-clock time. The last line is one JSON
object.
"""

import argparse
import io
import json
import os
import pathlib
import statistics
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from pipelines.images.decode import ImagePreprocess, Picture, decode, prepare

if TYPE_CHECKING:
    from pipelines.encoders.loaded import ImageEncoder

_REPEATS = 7
_SIZE = (2000, 1500)
_SOURCES = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
_QUALITIES = (85, 90, 95)
_TILE = 300
_NOISE = 2.0
_MAX_PIXELS = 100_000_000
_BATCH = 16


def _enlarged(source: Image.Image, rng: np.random.Generator) -> Image.Image:
    scale = max(_SIZE[0] / source.width, _SIZE[1] / source.height)
    left, top = (source.width - _SIZE[0] / scale) / 2, (source.height - _SIZE[1] / scale) / 2
    box = (left, top, source.width - left, source.height - top)
    pixels = np.asarray(source.resize(_SIZE, Image.Resampling.LANCZOS, box=box), float)
    return Image.fromarray((pixels + rng.normal(0, _NOISE, pixels.shape)).clip(0, 255).astype(np.uint8))


def _mosaic(sources: list[Image.Image], rng: np.random.Generator) -> Image.Image:
    canvas = Image.new("RGB", _SIZE)
    for top in range(0, _SIZE[1], _TILE):
        left = 0
        while left < _SIZE[0]:
            tile = sources[rng.integers(len(sources))]
            canvas.paste(tile.crop((0, 0, tile.width, _TILE)), (left, top))
            left += tile.width
    return canvas


def _made() -> list[bytes]:
    import skimage

    folder = pathlib.Path(skimage.__file__).parent / "data"
    sources = [Image.open(folder / name).convert("RGB") for name in _SOURCES]
    rng = np.random.default_rng(0)
    images = [_enlarged(source, rng) for source in sources] + [_mosaic(sources, rng) for _ in sources]
    photographs = []
    for number, image in enumerate(images):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=_QUALITIES[number % len(_QUALITIES)], subsampling="4:2:0")
        photographs.append(buffer.getvalue())
    return photographs


def _seconds(photographs: list[bytes], preprocess: ImagePreprocess, reduced: bool) -> list[float]:
    seconds = []
    for data in photographs:
        begin = time.process_time()
        prepare(decode(data, _MAX_PIXELS, [preprocess] if reduced else []), preprocess)
        seconds.append(time.process_time() - begin)
    return seconds


def _read(folder: str) -> list[bytes]:
    files = [path for path in sorted(pathlib.Path(folder).iterdir()) if path.suffix in (".jpg", ".jpeg")]
    return [path.read_bytes() for path in files]


def _embed(encoder: "ImageEncoder", pictures: list[Picture]) -> np.ndarray:
    arrays = [prepare(picture, encoder.preprocess) for picture in pictures]
    batches = [arrays[first : first + _BATCH] for first in range(0, len(arrays), _BATCH)]
    return np.concatenate([encoder.encode(batch, _BATCH) for batch in batches])


def _measure(photographs: list[bytes], encoder: "ImageEncoder") -> dict[str, object]:
    """Times full and reduced decoding in turn, and compares their vectors."""
    preprocess = encoder.preprocess
    medians: dict[bool, list[float]] = {False: [], True: []}
    for repeat in range(_REPEATS):
        for reduced, values in medians.items():
            values.append(1000 * statistics.median(_seconds(photographs, preprocess, reduced)))
        print(f"{repeat + 1} of {_REPEATS}: full {medians[False][-1]:.1f} ms, reduced {medians[True][-1]:.1f} ms")
    ratios = [full / small for full, small in zip(medians[False], medians[True], strict=True)]
    full = [decode(data, _MAX_PIXELS) for data in photographs]
    small = [decode(data, _MAX_PIXELS, [preprocess]) for data in photographs]
    cosines = (_embed(encoder, full) * _embed(encoder, small)).sum(-1)
    return {
        "reduced_over_full_2000px": round(statistics.median(ratios), 2),
        "min_cosine": round(float(cosines.min()), 5),
        "mean_cosine": round(float(cosines.mean()), 5),
        "full_ms": round(statistics.median(medians[False]), 1),
        "reduced_ms": round(statistics.median(medians[True]), 1),
        "full_sizes": sorted({picture.image.size for picture in full}),
        "reduced_sizes": sorted({picture.image.size for picture in small}),
        "median_kb": round(statistics.median(map(len, photographs)) / 1000),
        "images": len(photographs),
    }


def main() -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--images", help="folder of JPEGs; without it they are made")
    parser.add_argument("--encoder", default="efficientnet-lite0", help="name or folder of an image encoder")
    args = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from pipelines.encoders.handles import resolve
    from pipelines.encoders.loaded import ImageEncoder

    photographs = _read(args.images) if args.images else _made()
    if not photographs:
        parser.error(f"{args.images}: has no .jpg or .jpeg file")
    print(json.dumps(_measure(photographs, ImageEncoder(resolve(args.encoder, "float32")))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
