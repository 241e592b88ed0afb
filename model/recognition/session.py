"""What is loaded once: encoders, heads, and the version of index and memory that is in use; threads share it."""

import functools
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from configs.base import Embed
from model.recognition import pictures, trained
from model.recognition.engine import Engine
from model.recognition.memory import KEY
from model.recognition.pictures import Pixels
from model.recognition.source import Source, State
from model.recognition.trained import Trained
from pipelines import schemas
from pipelines.errors import UserError, nearest

if TYPE_CHECKING:
    from pipelines.encoders.handles import EncoderSpec
    from pipelines.encoders.loaded import ImageEncoder, TextEncoder


class Session:
    """An opened source.

    Attributes:
        source: the workdir or bundle.
        heads: names of the heads, the best on val first.
        follow: whether each call uses the version of index and memory that is published then.
    """

    def __init__(self, path: str, head: str, seeds: str | int, follow: bool, unsafe_models: bool) -> None:
        """Loads a head, index and memory, and the encoder of images.

        Args:
            path: of the workdir or bundle.
            head: to load first; empty for the best on val.
            seeds: as of `trained.load`.
            follow: whether to change to each version that is published.
            unsafe_models: as of `Source`.

        Raises:
            UserError: if something is missing, damaged, or of another run.
        """
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        # Neither TensorFlow nor JAX may take the whole memory of an accelerator.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
        self.source, self.follow, self._seeds = Source(path, follow, unsafe_models), follow, seeds
        self.heads = trained.heads(self.source.runs)
        self._lock = threading.RLock()
        self._engines: dict[str, Engine] = {}
        self._texts: dict[str, TextEncoder] = {}
        self.first = self.engine(head or self.heads[0]).trained
        self._state: State | None = self.source.load(self.first)
        self._images: ImageEncoder | None = None

    @property
    def embed(self) -> Embed:
        """Batch size of the encoders and limits of images."""
        return self.first.embed

    def engine(self, head: str) -> Engine:
        """Returns a head, which is loaded the first time; a `UserError` if there is no such head."""
        with self._lock:
            if head not in self._engines:
                if head not in self.heads:
                    raise UserError(f"head {head!r}: is not among the trained ones; {nearest(head, self.heads)}")
                self._engines[head] = Engine(trained.load(self.source.runs, head, self._seeds))
            return self._engines[head]

    def state(self) -> State:
        """Returns the version of index and memory to use for one call.

        Raises:
            UserError: if the session is closed, or the published version cannot be read.
        """
        with self._lock:
            if self._state is None:
                raise UserError("the recogniser is closed; open another")
            if self.follow and self.source.etag() != self._state.etag:
                self._state = self.source.load(self.first)
            return self._state

    def close(self) -> None:
        """Lets go of index and memory."""
        with self._lock:
            self._state = None

    @functools.cached_property
    def key_spec(self) -> "EncoderSpec":
        """The encoder of keys, found and described."""
        return self.source.encoder(KEY, self.first)

    def load_encoder(self) -> "ImageEncoder":
        """Returns the encoder of images, which is loaded the first time.

        Raises:
            UserError: if it is missing or another than the memory's.
        """
        from pipelines.encoders import loaded

        with self._lock:
            if self._images is None:
                self._images = loaded.ImageEncoder(self.key_spec)
            return self._images

    def pixels(self, images: Sequence[Any], first: int = 0) -> list[Pixels]:
        """Reads and decodes photographs on threads; `first` is the number of the first, for errors.

        Raises:
            UserError: for the first that cannot be read; it is named.
        """
        preprocess = self.load_encoder().preprocess

        def one(number: int) -> Pixels:
            return pictures.read(images[number], f"image {first + number + 1}", preprocess, self.embed)

        if len(images) == 1:
            return [one(0)]
        with ThreadPoolExecutor(min(len(images), os.cpu_count() or 1)) as pool:
            return list(pool.map(one, range(len(images))))

    def keys(self, photographs: Sequence[Pixels], first: int = 0) -> np.ndarray:
        """Returns the keys of photographs as they are stored, `[N, D]`.

        Raises:
            UserError: if the encoder makes no direction of one.
        """
        size, parts, encoder = self.embed.batch_size, [], self.load_encoder()
        for begin in range(0, len(photographs), size):
            batch = [photograph.pixels for photograph in photographs[begin : begin + size]]
            parts.append(self.key_spec.info.stored(encoder.encode(batch, size)))
        keys = np.concatenate(parts)
        if wrong := sorted({*schemas.unusable(keys)[0], *schemas.unusable(keys)[1]}):
            raise UserError(f"image {first + wrong[0] + 1}: the encoder gives it no vector that can be used")
        return keys

    def text_key(self, text: str) -> np.ndarray:
        """Returns the vector of a text in the space of the keys, float32 `[D]`, unit length.

        Raises:
            UserError: if no text encoder shares that space.
        """
        column = self.key_space_column()
        vector = self.encode_texts([text], column)[0]
        return vector / max(float(np.linalg.norm(vector)), np.finfo(np.float32).tiny)

    def key_space_column(self) -> str:
        """Returns the column whose text encoder shares the space of the keys; a `UserError` if there is none."""
        space = self.key_spec.space
        for column in self.source.text_columns(self.first) if space else ():
            spec = self.source.encoder(column, self.first)
            if (spec.space, spec.info.dim) == (space, self.key_spec.info.dim):
                return column
        whose = f"space {space!r}" if space else "which names no space"
        raise UserError(
            f"no text encoder shares the space of the key encoder {self.key_spec.handle} ({whose}); search by an "
            "image (docs/encoders.md, 'space')"
        )

    def encode_texts(self, texts: Sequence[str], column: str) -> np.ndarray:
        """Returns the vectors of texts by the encoder of a column, float32 `[n, V]`."""
        from pipelines.encoders import loaded

        with self._lock:
            if column not in self._texts:
                self._texts[column] = loaded.TextEncoder(self.source.encoder(column, self.first))
        return self._texts[column].encode_all(texts, self.embed.batch_size)

    def trained(self, head: str) -> Trained:
        """Returns what is known of a head."""
        return self.engine(head).trained
