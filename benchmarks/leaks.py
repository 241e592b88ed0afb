"""Measures the leakage filter: copies that it finds and look-alikes that it drops, by pixels and by cosine alone.

    python benchmarks/leaks.py DATA [--photographs=150]

DATA has `web_pairs/*.tar` and `tiny_imagenet_lt/` as configs/tiny_imagenet_lt.py describes them. True copies are the
test images that stand in the web pairs, known by the digests of their originals or by their size, and edits made here
of 160-pixel photographs and of 64-pixel test images: re-encoded, resized, mirrored, cropped to 60 to 95 % of the side,
recoloured, framed. Look-alikes are pairs of different images, those of the highest cosines: of one class, of the
photographs, and of a web pair and a test image. Originals of even number served to choose the thresholds; figures to
quote are those of odd number. The output is in Markdown.
"""

import argparse
import concurrent.futures
import dataclasses
import hashlib
import io
import json
import os
import pathlib
import tarfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from configs.base import Filters
from pipelines.encoders import handles, loaded
from pipelines.filtering import leakage, pixels
from pipelines.filtering.leakage import Queries, Rule
from pipelines.images import thumbnail
from pipelines.images.decode import decode, prepare

_KEY, _BATCH, _MAX_PIXELS = "efficientnet-lite0", 32, 100_000_000
# Pixels a side by which the kinds of web pairs are known.
_PHOTOGRAPH, _RESIZED = 160, 72
_LOOK_ALIKES = 2000
_LOOSE = 0.75
_THRESHOLDS = (0.4, 0.5, 0.6, 0.65, 0.7)
_CROPS = (0.6, 0.7, 0.8, 0.9, 0.95)


def _cut(image: Image.Image, wide: float, high: float, rng: np.random.Generator) -> Image.Image:
    width, height = round(image.width * wide), round(image.height * high)
    left, top = int(rng.integers(0, image.width - width + 1)), int(rng.integers(0, image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def _scaled(image: Image.Image, scale: float) -> Image.Image:
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)


# Each takes a picture and a generator, and returns the edited picture and the JPEG quality that it is stored at.
_EDITS: dict[str, Callable[[Image.Image, np.random.Generator], tuple[Image.Image, int]]] = {
    "quality 90": lambda image, rng: (image, 90),
    "quality 50": lambda image, rng: (image, 50),
    "quality 30": lambda image, rng: (image, 30),
    "enlarged by 9/8": lambda image, rng: (_scaled(image, 9 / 8), 90),
    "doubled": lambda image, rng: (_scaled(image, 2), 90),
    "halved": lambda image, rng: (_scaled(image, 0.5), 90),
    "mirrored": lambda image, rng: (ImageOps.mirror(image), 90),
    **{f"crop {side}": lambda image, rng, side=side: (_cut(image, side, side, rng), 90) for side in _CROPS},
    "crop 0.9 x 0.7": lambda image, rng: (_cut(image, 0.9, 0.7, rng), 90),
    "mirrored, crop 0.8": lambda image, rng: (_cut(ImageOps.mirror(image), 0.8, 0.8, rng), 90),
    "crop 0.8, brighter, quality 50": lambda image, rng: (
        ImageEnhance.Brightness(_cut(image, 0.8, 0.8, rng)).enhance(1.15),
        50,
    ),
    "brighter": lambda image, rng: (ImageEnhance.Brightness(image).enhance(1.25), 90),
    "darker": lambda image, rng: (ImageEnhance.Brightness(image).enhance(0.75), 90),
    "more contrast": lambda image, rng: (ImageEnhance.Contrast(image).enhance(1.3), 90),
    "half the colour": lambda image, rng: (ImageEnhance.Color(image).enhance(0.5), 90),
    "grey": lambda image, rng: (image.convert("L"), 90),
    "framed": lambda image, rng: (ImageOps.expand(image, image.width // 10, "white"), 90),
}


@dataclasses.dataclass(frozen=True)
class _Images:
    """Embedded images: keys float32 `[n, d]`, thumbnails uint8 `[n, side, side]`, and where they are not blank."""

    keys: np.ndarray
    thumbnails: np.ndarray
    shown: np.ndarray

    def take(self, places: np.ndarray) -> "_Images":
        return _Images(self.keys[places], self.thumbnails[places], self.shown[places])


def _embed(images: list[bytes], encoder: loaded.ImageEncoder) -> _Images:
    def batch(first: int) -> tuple[np.ndarray, bytes]:
        pictures = [decode(data, _MAX_PIXELS, [encoder.preprocess]) for data in images[first : first + _BATCH]]
        keys = encoder.encode([prepare(picture, encoder.preprocess) for picture in pictures], _BATCH)
        return keys, b"".join(map(thumbnail.make, pictures))

    with concurrent.futures.ThreadPoolExecutor() as pool:
        keys, grey = zip(*pool.map(batch, range(0, len(images), _BATCH)), strict=True)
    thumbnails = np.frombuffer(b"".join(grey), np.uint8).reshape(-1, thumbnail.SIDE, thumbnail.SIDE)
    return _Images(np.concatenate(keys), thumbnails, ~pixels.blank(thumbnails))


def _pairs(data: pathlib.Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yields each web pair: its image and what is known of it."""
    for path in sorted((data / "web_pairs").glob("*.tar")):
        members: dict[str, dict[str, bytes]] = {}
        with tarfile.open(path) as tar:
            for member in tar:
                name, _, suffix = member.name.rpartition(".")
                if suffix in ("jpg", "json"):
                    members.setdefault(name, {})[suffix] = tar.extractfile(member).read()  # type: ignore[union-attr]
        for pair in members.values():
            if "jpg" in pair:
                yield pair["jpg"], json.loads(pair["json"])


def _labelled(data: pathlib.Path) -> Iterator[tuple[bytes, int]]:
    """Yields the val and test images with their labels."""
    root = data / "tiny_imagenet_lt"
    for split in ("val", "test"):
        for line in (root / f"TinyImageNet_LT_{split}.txt").read_text().splitlines():
            path, label = line.rsplit(" ", 1)
            yield (root / "images" / path).read_bytes(), int(label)


def _as_queries(images: _Images) -> Queries:
    places = np.arange(len(images.keys))
    digests = np.array([hashlib.sha256(b"%d" % place).digest() for place in places], "S32")
    order = np.argsort(digests)
    zeros = np.zeros(len(places), np.int8)
    return Queries(zeros, places, images.keys, images.thumbnails, images.shown, digests[order], order)


def _as_rows(images: _Images) -> leakage.Rows:
    return leakage.Rows(np.full(len(images.keys), b"", "S32"), images.keys, images.thumbnails, images.shown)


def _look_alikes(ours: _Images, theirs: _Images, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the cosines and the similarities of pixels of the allowed pairs with the highest cosines."""
    cosines = np.where(allowed, ours.keys @ theirs.keys.T, -1)
    first, second = np.unravel_index(np.argpartition(-cosines, _LOOK_ALIKES, axis=None)[:_LOOK_ALIKES], cosines.shape)
    shown = ours.shown[first] & theirs.shown[second]
    alike = pixels.similarity(ours.thumbnails[first], theirs.thumbnails[second])
    return cosines[first, second], np.where(shown, alike, cosines[first, second] >= Filters().leakage)


def _edited(
    originals: list[bytes], images: _Images, chosen: np.ndarray, encoder: loaded.ImageEncoder, rng: np.random.Generator
) -> dict[str, tuple[float, float]]:
    """Returns for each edit the shares of the chosen originals whose copies are found by pixels and by cosine."""
    queries, rules = _as_queries(images), (Rule.of(Filters()), Rule(Filters().leakage))
    shares = {}
    for name, edit in _EDITS.items():
        encoded = []
        for place in chosen:
            buffer = io.BytesIO()
            picture, quality = edit(decode(originals[place], _MAX_PIXELS).image, rng)
            picture.save(buffer, "JPEG", quality=quality)
            encoded.append(buffer.getvalue())
        rows = _as_rows(_embed(encoded, encoder))
        found = [queries.matches(rows, rule) for rule in rules]
        shares[name] = tuple(float((match.is_copy & (match.query == chosen)).mean()) for match in found)
    return shares  # type: ignore[return-value]


def _print_edits(title: str, shares: dict[str, tuple[float, float]]) -> None:
    print(f"| {title} | by pixels | by a cosine of {Filters().leakage} alone |\n|---|---|---|")
    means = tuple(float(np.mean(column)) for column in zip(*shares.values(), strict=True))
    for name, (found, alone) in {**shares, "all": means}.items():
        print(f"| {name} | {found:.3f} | {alone:.3f} |", flush=True)


def _print_look_alikes(title: str, cosines: np.ndarray, alike: np.ndarray) -> None:
    rule = Rule.of(Filters())
    shares = [float(((alike >= least) & (cosines >= rule.candidates)).mean()) for least in _THRESHOLDS]
    cells = " | ".join(f"{share:.4f}" for share in shares)
    print(
        f"| {title}, {cosines.min():.2f} to {cosines.max():.2f} | {cells} | {np.mean(cosines >= _LOOSE):.4f} |",
        flush=True,
    )


def _planted(
    web: list[tuple[bytes, dict[str, Any]]], images: _Images, queries: Queries, digests: set[str]
) -> np.ndarray:
    """Prints how many of the planted copies are found, and what else is dropped; returns which pairs are planted."""
    same = np.array([pair["sha256"] in digests for _, pair in web])
    resized = np.array([pair["width"] == _RESIZED for _, pair in web])
    for name, rule in (("pixels", Rule.of(Filters())), ("cosine alone", Rule(Filters().leakage))):
        begin = time.process_time()
        found = queries.matches(_as_rows(images), rule)
        secs = time.process_time() - begin
        counts = [int(found.is_copy[rows].sum()) for rows in (same, resized, ~same & ~resized)]
        print(
            f"{name}: {counts[0]} of {same.sum()} equal originals, {counts[1]} of {resized.sum()} resized, "
            f"{counts[2]} of the other {(~same & ~resized).sum():,}; {found.pairs:,} pairs, {secs:.1f} CPU s",
            flush=True,
        )
    return same | resized


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("data", type=pathlib.Path, help="folder of web_pairs and tiny_imagenet_lt")
    parser.add_argument("--photographs", type=int, default=150, help="originals of each kind and half that are edited")
    args = parser.parse_args()
    encoder = loaded.ImageEncoder(handles.resolve(_KEY, "float32"))
    web, labelled = list(_pairs(args.data)), list(_labelled(args.data))
    pairs, tests = _embed([data for data, _ in web], encoder), _embed([data for data, _ in labelled], encoder)
    digests = {hashlib.sha256(data).hexdigest() for data, _ in labelled}
    planted = _planted(web, pairs, _as_queries(tests), digests)
    labels = np.array([label for _, label in labelled])
    is_photograph = np.array([pair["width"] == _PHOTOGRAPH for _, pair in web])
    photographs = pairs.take(np.flatnonzero(is_photograph))
    kinds = {
        "160-pixel photographs": (
            [data for (data, _), is_one in zip(web, is_photograph, strict=True) if is_one],
            photographs,
        ),
        "64-pixel test images": ([data for data, _ in labelled], tests),
    }
    for half, title in enumerate(("the half that thresholds were chosen on", "the other half")):
        print(f"\n{title}\n")
        for name, (originals, images) in kinds.items():
            rng = np.random.default_rng(half)
            places = np.arange(half, len(originals), 2)
            chosen = np.sort(rng.choice(places, min(args.photographs, len(places)), replace=False))
            _print_edits(name, _edited(originals, images, chosen, encoder, rng))
        print(f"| look-alikes, cosines | {' | '.join(map(str, _THRESHOLDS))} | cosine of {_LOOSE} alone |")
        print("|---" * (len(_THRESHOLDS) + 2) + "|")
        ours, snaps = (
            tests.take(np.arange(half, len(labels), 2)),
            photographs.take(np.arange(half, len(photographs.keys), 2)),
        )
        mine = labels[half::2]
        later = np.triu(np.ones((len(mine), len(mine)), bool), 1)
        _print_look_alikes("of one class", *_look_alikes(ours, ours, later & (mine[:, None] == mine)))
        _print_look_alikes("photographs", *_look_alikes(snaps, snaps, np.triu(np.ones([len(snaps.keys)] * 2, bool), 1)))
        others = pairs.take(np.flatnonzero(~planted)[half::2])
        _print_look_alikes("web pairs and test images", *_look_alikes(others, tests, np.array(True)))


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
