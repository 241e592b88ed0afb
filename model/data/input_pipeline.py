"""Images of labelled rows as batches of pixels, read, decoded and augmented in worker processes.

The contents of a batch depend only on the seed and its place in the run: any number of workers gives the same bytes,
and a run may begin at any step. `sampling` chooses the rows of an epoch.
"""

import contextlib
import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image

from model.data import sampling
from pipelines.errors import UserError
from pipelines.images.decode import DecodeError, ImagePreprocess, Picture, decode, prepare
from pipelines.manifest import Embeddings

_CROP_ATTEMPTS = 10
_BATCHES_AHEAD = 2


class ImageBatch(NamedTuple):
    """The input of a step.

    Attributes:
        images: uint8 `[B, S, S, 3]`, RGB.
        rows: of the split, int32 `[B]`.
    """

    images: np.ndarray
    rows: np.ndarray


@dataclasses.dataclass(frozen=True)
class Augment:
    """How training pictures are augmented; see the fields of `configs.base.Finetune`."""

    min_area: float
    max_aspect: float
    flip: bool


# The corners and the middle.
WINDOWS = 5


@dataclasses.dataclass(frozen=True)
class Window:
    """A part of a picture of the encoder's size, where the whole is larger by a margin: LIFT's test-time ensemble.

    Attributes:
        number: 0 to 3 for the corners, 4 for the middle.
        margin: pixels by which each side is larger, at least 1.
    """

    number: int
    margin: int

    def of(self, pixels: np.ndarray) -> np.ndarray:
        """Returns the part `[S, S, 3]` of pixels `[S + margin, S + margin, 3]`."""
        middle = self.margin // 2
        corners = ((0, 0), (0, self.margin), (self.margin, 0), (self.margin, self.margin))
        top, left = (*corners, (middle, middle))[self.number]
        size = len(pixels) - self.margin
        return pixels[top : top + size, left : left + size]


# The encoded image of a row, by the container and the member that it was read from.
Read = Callable[[str, str], bytes]


class Images:
    """The pictures of one split by row."""

    def __init__(
        self, folder: str, read: Read, max_pixels: int, preprocess: ImagePreprocess, augment: Augment | Window | None
    ) -> None:
        """Reads where each row came from.

        Args:
            folder: of the embedded split.
            read: reads its images again.
            max_pixels: largest image that is decoded.
            preprocess: the input of the encoder.
            augment: how pictures are augmented, or the window that is seen; None gives the pixels that were embedded.
        """
        self._read, self._max_pixels = read, max_pixels
        self._preprocess, self._augment = preprocess, augment
        embeddings = Embeddings(folder)
        columns = ["source_shard", "member", "content_key"]
        tables = [embeddings.read(shard, columns).replace_schema_metadata() for shard in embeddings.shard_rows]
        self._table = pa.concat_tables(tables).combine_chunks()

    def __len__(self) -> int:
        """Returns the number of rows."""
        return self._table.num_rows

    def load(self, row: int, rng: np.random.Generator) -> np.ndarray:
        """Returns a row's pixels, uint8 `[S, S, 3]`; `rng` draws the augmentation.

        Raises:
            UserError: if the image has gone, or is not the one that was embedded.
        """
        container, member, content_key = (self._table[name][row].as_py() for name in self._table.column_names)
        data = self._read(container, member)
        if hashlib.sha256(data).digest() != content_key:
            raise UserError(
                f"{container}, {member}: has changed since it was embedded (row {row}); run web-memory embed again"
            )
        augment = self._augment
        wanted = self._preprocess
        if isinstance(augment, Window):
            wanted = dataclasses.replace(wanted, size=wanted.size + augment.margin)
        elif augment and augment.min_area < 1:
            # A JPEG may be decoded at the smallest scale that is large enough for the smallest crop.
            wanted = dataclasses.replace(wanted, size=math.ceil(wanted.size / math.sqrt(augment.min_area)))
        try:
            picture = decode(data, self._max_pixels, [wanted])
        except DecodeError as error:
            raise UserError(f"{container}, {member}: {error} (row {row}); run web-memory embed again") from error
        if not augment:
            return prepare(picture, self._preprocess)
        if isinstance(augment, Window):
            return augment.of(prepare(picture, wanted))
        crops = augment.min_area < 1
        pixels = (
            random_crop(picture, self._preprocess.size, augment, rng) if crops else prepare(picture, self._preprocess)
        )
        return pixels[:, ::-1] if augment.flip and rng.random() < 0.5 else pixels


def random_crop(picture: Picture, size: int, augment: Augment, rng: np.random.Generator) -> np.ndarray:
    """Returns a crop of random place, area and aspect as uint8 `[size, size, 3]` (Szegedy et al. 2015, section 6)."""
    left, top, right, bottom = picture.box
    width, height = right - left, bottom - top
    # If none of the drawn crops fits, the largest central square.
    crop_width = crop_height = min(width, height)
    x, y = (width - crop_width) / 2, (height - crop_height) / 2
    log_aspect = math.log(augment.max_aspect)
    for _ in range(_CROP_ATTEMPTS):
        area = width * height * rng.uniform(augment.min_area, 1)
        aspect = math.exp(rng.uniform(-log_aspect, log_aspect))
        wide, high = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if wide <= width and high <= height:
            crop_width, crop_height = wide, high
            x, y = rng.uniform(0, width - wide), rng.uniform(0, height - high)
            break
    box = (left + x, top + y, left + x + crop_width, top + y + crop_height)
    return np.asarray(picture.image.resize((size, size), Image.Resampling.BILINEAR, box=box))


class Draws:
    """The training row of each place in a run; places count over all epochs."""

    def __init__(self, labels: np.ndarray, sampling_name: str, seed: int) -> None:
        """Keeps the labels `[N]`, the sampling and the seed of the run, which decide the order."""
        self._labels, self._sampling, self._seed = labels, sampling_name, seed
        self._last = (-1, np.empty(0, np.int64))

    def __call__(self, place: int) -> int:
        """Returns the row; the order of the last epoch is cached."""
        epoch, offset = divmod(place, len(self._labels))
        number, order = self._last
        if number != epoch:
            order = sampling.epoch_rows(self._labels, self._sampling, self._seed, epoch)
            self._last = (epoch, order)
        return int(order[offset])


def in_order(count: int, place: int) -> int:
    """Returns the row of each place of an evaluation; row 0 fills up the last batch."""
    return place if place < count else 0


class _Examples:
    """The example of each place, as grain reads them."""

    def __init__(self, images: Images, row_of: Callable[[int], int], seed: int, begin: int, end: int) -> None:
        self._images, self._row_of, self._seed, self._begin, self._end = images, row_of, seed, begin, end

    def __len__(self) -> int:
        return self._end - self._begin

    def __getitem__(self, index: Any) -> dict[str, np.ndarray]:
        place = self._begin + int(index)
        row = self._row_of(place)
        pixels = self._images.load(row, np.random.default_rng((self._seed, place)))
        return {"images": np.ascontiguousarray(pixels), "rows": np.asarray(row, np.int32)}


@contextlib.contextmanager
def _open(examples: _Examples, batch_size: int, workers: int) -> Iterator[Iterator[ImageBatch]]:
    try:
        import grain
        from absl import flags
    except ImportError as error:
        raise UserError("grain is not installed; install it by: pip install 'web-memory[finetune]'") from error
    if not flags.FLAGS.is_parsed():
        # grain reads its options from absl flags, which this program does not use.
        flags.FLAGS.mark_as_parsed()
    dataset = grain.MapDataset.source(examples).batch(batch_size, drop_remainder=True)
    # Processes, not threads, share the work, so each reads one image at a time.
    stream = dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=_BATCHES_AHEAD)
    iterator = iter(stream.mp_prefetch(options))
    try:
        # A copy frees the memory shared with a worker at once, even while a device still reads the batch.
        yield (ImageBatch(**{name: np.array(array) for name, array in part.items()}) for part in _worded(iterator))
    finally:
        iterator.close()


def _worded(iterator: Iterator[Any]) -> Iterator[Any]:
    while True:
        try:
            part = next(iterator)
        except StopIteration:
            return
        except RuntimeError as error:
            if "terminated" not in str(error):
                raise
            raise UserError(
                f"a worker that decodes images was killed ({error}); run the same command again to resume"
            ) from error
        yield part


def training(
    images: Images, draws: Draws, seed: int, begin: int, end: int, batch_size: int, workers: int
) -> contextlib.AbstractContextManager[Iterator[ImageBatch]]:
    """Opens the batches of steps `begin` to `end`; the context ends the processes.

    Args:
        images: of the training split.
        draws: the rows.
        seed: of the run, which also draws the augmentation.
        begin: first step.
        end: step after the last.
        batch_size: B.
        workers: processes; 0 to read in this one.

    Raises:
        UserError: while they are read, if an image is not the one that was embedded, or a process was killed.
    """
    return _open(_Examples(images, draws, seed, begin * batch_size, end * batch_size), batch_size, workers)


def evaluation(
    images: Images, batch_size: int, workers: int
) -> contextlib.AbstractContextManager[Iterator[ImageBatch]]:
    """Opens all rows in their order; row 0 fills up the last batch. Errors as `training`."""
    count = len(images)
    padded = math.ceil(count / batch_size) * batch_size
    return _open(_Examples(images, functools.partial(in_order, count), 0, 0, padded), batch_size, workers)
