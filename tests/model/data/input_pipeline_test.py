"""Pixels by row: what was embedded where nothing is varied, known crops where it is, the same whatever the workers."""

import dataclasses
import hashlib
import io
import itertools
import multiprocessing
import pathlib

import numpy as np
import pytest
from PIL import Image

from configs.base import Config, Embed, Source
from model.data import input_pipeline, sampling
from model.data.input_pipeline import Augment, Draws, Images, Window
from pipelines.errors import UserError
from pipelines.images.decode import ImagePreprocess, decode, prepare
from pipelines.sources.pictures import Pictures
from tests import world

ROWS, WIDTH, HEIGHT = 14, 120, 90
PREPROCESS = ImagePreprocess(16, crop_fraction=0.875, resize="area")
AUGMENT = Augment(min_area=0.3, max_aspect=4 / 3, flip=True)
LABELS = (np.arange(ROWS) % 3).astype(np.int32)


def _ramp(number: int) -> bytes:
    """Returns a PNG whose red is the column, whose green is the row and whose blue is a number."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[..., 0], pixels[..., 1], pixels[..., 2] = np.arange(WIDTH), np.arange(HEIGHT)[:, None], 10 * number
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def config(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """A split of two shards whose images are in folders named after the shards."""
    monkeypatch.chdir(tmp_path)
    images = [_ramp(row) for row in range(ROWS)]
    for row, image in enumerate(images):
        folder = tmp_path / f"{row * 2 // ROWS:05d}"
        folder.mkdir(exist_ok=True)
        (folder / f"{row}.jpg").write_bytes(image)
    digests = [hashlib.sha256(image).digest() for image in images]
    world.write_embeddings("out/queries/train", world.unit(ROWS), digests, shards=2)
    return Config(workdir="out", train_set=Source(format="image_list"), embed=Embed(max_image_pixels=1 << 20))


def _images(config: Config, augment: Augment | Window | None, preprocess: ImagePreprocess = PREPROCESS) -> Images:
    read = Pictures(config.train_set, config.data, config.embed).read
    return Images(config.places.queries("train"), read, config.embed.max_image_pixels, preprocess, augment)


def _training(config: Config, begin: int, end: int, workers: int, augment: Augment = AUGMENT) -> list:
    images, draws = _images(config, augment), Draws(LABELS, "uniform", 5)
    with input_pipeline.training(images, draws, 5, begin, end, 4, workers) as stream:
        return [(part.images.tobytes(), part.rows.tolist()) for part in stream]


def test_evaluation_gives_the_pixels_that_were_embedded_in_order(config):
    with input_pipeline.evaluation(_images(config, None), 4, 0) as stream:
        parts = list(stream)
    assert np.concatenate([part.rows for part in parts]).tolist() == [*range(ROWS), 0, 0]
    for part in parts:
        for row, pixels in zip(part.rows, part.images, strict=True):
            expected = prepare(decode(_ramp(row), 1 << 20, [PREPROCESS]), PREPROCESS)
            np.testing.assert_array_equal(pixels, expected)


def test_without_crops_and_flips_training_sees_the_same_pixels(config):
    plain, varied = (_images(config, a) for a in (None, Augment(1.0, 2.0, False)))
    for row in range(ROWS):
        rng = np.random.default_rng(row)
        np.testing.assert_array_equal(varied.load(row, rng), plain.load(row, rng))


def test_the_rows_are_those_of_the_sampling_over_the_ends_of_epochs(config):
    rows = [rows for _, rows in _training(config, 0, 9, 0)]
    np.testing.assert_array_equal(rows, sampling.batch_rows(LABELS, "uniform", 5, 0, 9, 4))
    draws = Draws(LABELS, "balanced", 7)
    expected = sampling.batch_rows(LABELS, "balanced", 7, 0, 10, 4).ravel()
    # In any order, as several workers ask.
    for place in np.random.default_rng(0).permutation(40):
        assert draws(int(place)) == expected[place]


def test_a_run_may_begin_at_any_step(config):
    whole = _training(config, 0, 6, 0)
    assert len({images for images, _ in whole}) == 6
    for begin in (1, 4):
        assert _training(config, begin, 6, 0) == whole[begin:]


@pytest.mark.slow
def test_any_number_of_workers_gives_the_same_bytes(config):
    whole = _training(config, 0, 7, 0)
    for workers in (1, 2):
        assert _training(config, 0, 7, workers) == whole
    assert not multiprocessing.active_children()


def test_crops_have_the_area_and_aspect_that_are_asked_for(config):
    preprocess = ImagePreprocess(64)
    images = _images(config, Augment(0.25, 1.5, True), preprocess)
    shares, aspects, mirrored, places = [], [], 0, []
    for number in range(300):
        pixels = images.load(3, np.random.default_rng((1, number))).astype(np.float64)
        # The slopes of the ramps tell what part of the picture a pixel stands for.
        middle = slice(8, -8)
        wide = np.polyfit(np.arange(64)[middle], pixels[32, middle, 0], 1)[0] * 64
        high = np.polyfit(np.arange(64)[middle], pixels[middle, 32, 1], 1)[0] * 64
        mirrored += wide < 0
        shares.append(abs(wide) * high / (WIDTH * HEIGHT))
        aspects.append(abs(wide) / high)
        places.append(pixels[32, 32, :2])
        assert (pixels[..., 2] == 30).all()
    assert 0.24 < min(shares) < 0.35 and 0.85 < max(shares) < 1.01
    assert 1 / 1.55 < min(aspects) < 0.8 and 1.3 < max(aspects) < 1.55
    assert 120 < mirrored < 180
    assert (np.ptp(places, axis=0) > 15).all()


def test_a_picture_that_no_crop_fits_gives_its_central_square(config):
    shape = (1000, 20)
    image = Image.new("RGB", shape)
    image.paste((255, 0, 0), (490, 0, 510, 20))
    picture = decode(_png(image), 1 << 20)
    pixels = input_pipeline.random_crop(picture, 8, Augment(0.9, 1.2, False), np.random.default_rng(0))
    # The filter looks a little over the edge.
    assert (pixels[:, 1:-1] == (255, 0, 0)).all()


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_windows_are_the_corners_and_the_middle_of_a_larger_picture(config):
    size, rng = PREPROCESS.size, np.random.default_rng(0)
    whole = _images(config, None, dataclasses.replace(PREPROCESS, size=size + 6)).load(2, rng)
    for number, (top, left) in enumerate([(0, 0), (0, 6), (6, 0), (6, 6), (3, 3)]):
        found = _images(config, Window(number, 6)).load(2, rng)
        np.testing.assert_array_equal(found, whole[top : top + size, left : left + size])


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_an_image_that_is_another_now_is_named_with_its_row(config, workers):
    pathlib.Path("00001/9.jpg").write_bytes(_ramp(8))
    with pytest.raises(UserError, match=r"00001, 9.jpg: has changed since it was embedded \(row 9\)"):
        _training(config, 0, 8, workers)
    pathlib.Path("00001/9.jpg").unlink()
    with pytest.raises((UserError, FileNotFoundError), match="9.jpg"):
        _training(config, 0, 8, workers)


@pytest.mark.slow
def test_a_killed_worker_is_said(config):
    images, draws = _images(config, AUGMENT), Draws(LABELS, "uniform", 5)
    with input_pipeline.training(images, draws, 5, 0, 10_000, 4, 2) as stream:
        assert len(list(itertools.islice(stream, 3))) == 3
        multiprocessing.active_children()[0].kill()
        with pytest.raises(UserError, match="a worker that decodes images was killed"):
            list(stream)
