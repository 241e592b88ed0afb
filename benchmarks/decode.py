"""What decoding JPEGs at a reduced scale saves, and what it changes in their vectors.

    python benchmarks/decode.py
    python benchmarks/decode.py --images=FOLDER --encoder=efficientnet-lite2

Without a folder the photographs are made of those that scikit-image brings along: enlarged, with the noise of a sensor,
or many side by side, to 2000 x 1500 pixels, as JPEGs of quality 85 to 95 with 4:2:0. Enlarged ones hold less
detail than a camera's, mosaics more. Full and reduced decoding, each with `prepare`, run in turn over all photographs,
in one thread; processor time is taken, which neighbours on the machine disturb less than the clock. The last line is
one JSON object.
"""

import argparse
import io
import json
import os
import pathlib
import statistics
import sys
import time

import numpy as np
from PIL import Image

from pipelines.images.decode import ImagePreprocess, decode, prepare

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


def main() -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--images", help="folder of JPEGs; without it they are made")
    parser.add_argument("--encoder", default="efficientnet-lite0", help="name or folder of an image encoder")
    args = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from pipelines.encoders.handles import ImageEncoder, resolve

    encoder = ImageEncoder(resolve(args.encoder, "float32"))
    preprocess = encoder.preprocess
    if args.images:
        files = [path for path in sorted(pathlib.Path(args.images).iterdir()) if path.suffix in (".jpg", ".jpeg")]
        photographs = [path.read_bytes() for path in files]
    else:
        photographs = _made()
    if not photographs:
        parser.error(f"{args.images}: has no .jpg or .jpeg file")

    pictures = {reduced: [] for reduced in (False, True)}
    vectors = {}
    for reduced in pictures:
        pictures[reduced] = [decode(data, _MAX_PIXELS, [preprocess] if reduced else []) for data in photographs]
        arrays = [prepare(picture, preprocess) for picture in pictures[reduced]]
        batches = [arrays[first : first + _BATCH] for first in range(0, len(arrays), _BATCH)]
        vectors[reduced] = np.concatenate([encoder.encode(batch, _BATCH) for batch in batches])
    cosines = (vectors[False] * vectors[True]).sum(-1)

    medians: dict[bool, list[float]] = {False: [], True: []}
    for repeat in range(_REPEATS):
        for reduced, values in medians.items():
            values.append(1000 * statistics.median(_seconds(photographs, preprocess, reduced)))
        print(f"{repeat + 1} of {_REPEATS}: full {medians[False][-1]:.1f} ms, reduced {medians[True][-1]:.1f} ms")
    ratios = [full / small for full, small in zip(medians[False], medians[True], strict=True)]
    sizes = {reduced: sorted({picture.image.size for picture in kind}) for reduced, kind in pictures.items()}
    print(
        json.dumps(
            {
                "reduced_over_full_2000px": round(statistics.median(ratios), 2),
                "min_cosine": round(float(cosines.min()), 5),
                "mean_cosine": round(float(cosines.mean()), 5),
                "full_ms": round(statistics.median(medians[False]), 1),
                "reduced_ms": round(statistics.median(medians[True]), 1),
                "full_sizes": sizes[False],
                "reduced_sizes": sizes[True],
                "median_kb": round(statistics.median(map(len, photographs)) / 1000),
                "images": len(photographs),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
