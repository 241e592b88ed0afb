"""PBM, PGM and PPM against pixels computed here and what Pillow shows of the whole file, as libvips has none here."""

import io
import random
import sys

import numpy as np
import pytest
from PIL import Image

from pipelines.images.decode import DecodeError, decode
from tests.pipelines.images.formats.measured import measure, no_more_memory, outcome
from tests.pipelines.images.formats.scenes import alike, decoded, saved, scene

_HEIGHT, _WIDTH = scene().shape[:2]
_LIMIT = 100_000_000


def _file(kind: int, most: int, comment: bytes = b"", end: str = "\n") -> tuple[bytes, np.ndarray]:
    """A picture as text (1 to 3) or bytes (4 to 6), and its pixels."""
    samples = scene(3 if kind in (3, 6) else 1, most + 1)
    head = b"P%d\n%b%d %d\n" % (kind, comment, _WIDTH, _HEIGHT) + (b"%d\n" % most if kind not in (1, 4) else b"")
    if kind <= 3:
        return head + end.join(map(str, samples.reshape(-1))).encode() + b"\n", samples
    if kind == 4:
        return head + np.packbits(samples[..., 0].astype(bool), axis=-1).tobytes(), samples
    return head + samples.astype(">u2" if most > 255 else "u1").tobytes(), samples


def _right(samples: np.ndarray, kind: int, most: int) -> np.ndarray:
    levels = 255 * (1 - samples) if kind in (1, 4) else samples * 255 / most
    return np.broadcast_to(levels, (_HEIGHT, _WIDTH, 3))


def _pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


@pytest.mark.parametrize("comment", [b"", b"# made by hand\n", b"#\n#\r# 9 9\n"])
@pytest.mark.parametrize("most", [1, 3, 100, 255, 256, 1000, 4095, 65_535])
@pytest.mark.parametrize("kind", range(1, 7))
def test_every_kind_and_range(kind, most, comment):
    most = 1 if kind in (1, 4) else most
    data, samples = _file(kind, most, comment)
    assert alike(decoded(data), _right(samples, kind, most), 0.51)
    if most <= 255:
        assert alike(_pillow(data), _right(samples, kind, most), 0.51)


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_what_pillow_writes(mode):
    data = saved(Image.fromarray(scene().astype(np.uint8)).convert(mode), "PPM")
    np.testing.assert_array_equal(decoded(data), _pillow(data))


def test_what_pillow_writes_of_16_bits():
    samples = scene(1, 65_536)
    data = saved(Image.fromarray(samples[..., 0].astype(np.uint16)), "PPM")
    assert alike(decoded(data), samples / 257 + np.zeros(3))


def test_text_of_bits_needs_no_spaces():
    assert decoded(b"P1 3 2 010\n1#x\n01")[..., 0].tolist() == [[255, 0, 255], [0, 255, 0]]


def test_numbers_across_blocks_are_whole():
    side = 800
    pixels = np.random.default_rng(0).integers(0, 256, (side, side))
    data = b"P2\n%d %d\n255\n" % (side, side) + b" ".join(b"%d" % value for value in pixels.reshape(-1))
    assert len(data) > 2 << 20
    np.testing.assert_array_equal(np.asarray(decode(data, _LIMIT).image)[..., 0], pixels)


def test_values_above_the_largest_count_as_it():
    assert decoded(b"P5 2 1 100 \x64\xff")[0, :, 0].tolist() == [255, 255]
    assert decoded(b"P2 2 1 100 50 9999999999")[0, :, 0].tolist() == [128, 255]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"PF\n8 8\n-1.0\n" + bytes(999), "is a PFM, a map of floating numbers"),
        (b"Pf\n8 8\n-1.0\n" + bytes(999), "is a PFM"),
        (b"P5 8 8 0 " + bytes(64), "broken header"),
        (b"P5 8 8 65536 " + bytes(128), "broken header"),
        (b"P5 8 8 255#" + bytes(128), "broken header"),
        (b"P5 8", "broken header"),
        (b"P5 99999999999 8 255 ", "broken header"),
        (b"P5 0 8 255 ", "without pixels"),
        (b"P5 8 8 255 " + bytes(63), "ends within its pixels"),
        (b"P4 9 8 " + bytes(15), "ends within its pixels"),
        (b"P2 2 2 255 1 2  3 ", "ends within its pixels"),
        (b"P1 2 2 0 1 1", "ends within its pixels"),
        (b"P2 2 1 255 " + b"#\n" * 65_537, "more than 65,536 comments"),
        (b"P1 2 1 02", "neither 0 nor 1"),
        (b"P2 2 1 255 1 -2 3", "something that is no number"),
        (b"P2 2 1 255 1 20000000000", "something that is no number"),
        (b"P7\nWIDTH 8\nHEIGHT 8\n", "is no JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF, PPM image"),
        (b"PyRGBA 8 8 255 " + bytes(256), "is no JPEG"),
        (b"P0CMYK 8 8 255 " + bytes(256), "is no JPEG"),
        (b"Pigs fly", "is no JPEG"),
    ],
)
def test_what_is_not_decoded_is_named(data, words):
    with pytest.raises(DecodeError, match=words) as error:
        decode(data, _LIMIT)
    assert error.value.reason == "CannotDecode"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: b"P5\n#" + b"a" * 20_000_000 + b"\n2 2 255\nabcd", "2 x 2"),
        (lambda: b"P5\n" + b"#\n" * 10_000_000 + b"2 2 255\nabcd", "2 x 2"),
        (lambda: b"P5\n" + b" " * 20_000_000 + b"2 2 255\nabcd", "2 x 2"),
        (lambda: b"P5\n" + b"#" * 20_000_000, "CannotDecode"),
        (lambda: b"P2 2 2 255\n" + b"#" * 20_000_000, "CannotDecode"),
        (lambda: b"P2 2 2 255\n" + b"#\n" * 10_000_000, "CannotDecode"),
        (lambda: b"P2 2 2 255\n" + b" " * 20_000_000, "CannotDecode"),
        (lambda: b"P2 2 2 255\n" + b"1" * 20_000_000, "CannotDecode"),
        (lambda: b"P1 30000 30000\n" + b"1" * 20_000_000, "CannotDecode"),
        (lambda: b"P5 9999999999 9999999999 255 ", "CannotDecode"),
        (lambda: b"P4 9000 9000 " + bytes(10_125_000), "9000 x 9000"),
        (lambda: b"P2 3000 3000 255 " + b"1 " * 9_000_000, "3000 x 3000"),
        (lambda: b"P6 1700 1700 1000 " + bytes(17_340_000), "1700 x 1700"),
    ],
)
def test_hostile_ones_take_little_memory_and_time(make, expected):
    data = make()
    peak, secs, found = measure(data)
    pixels = np.prod([int(side) for side in expected.split(" x ")]) if "x" in expected else 0
    assert found == expected and peak < 24 * pixels + 5 * len(data) + (1 << 20) and secs < 4


@pytest.mark.parametrize("kind", range(1, 7))
def test_cut_or_changed_it_is_a_picture_or_refused(kind):
    data, chance = _file(kind, 255 if kind not in (1, 4) else 1, b"# a comment\n")[0], random.Random(kind)
    for size in range(len(data)):
        outcome(data[:size])
    with no_more_memory(64 << 20):
        _change(data, chance)


def _change(data: bytes, chance: random.Random) -> None:
    for _ in range(500):
        changed = bytearray(data)
        changed[chance.randrange(min(len(data), 60))] = chance.choice([*b"0123456789 #\n\rP", chance.randrange(256)])
        outcome(bytes(changed))
