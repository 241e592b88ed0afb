"""What is loaded once: encoders, heads, and the version of index and memory that is in use; threads share it."""

import dataclasses
import functools
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from configs.base import Embed
from model.heads import registry
from model.heads.base import NewClasses
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

# Share of a batch up to which encoding in parts is faster than filling it up, and the parts.
_FEW = 0.25
_PARTS = (1, 2, 4, 8)
# Losses whose scores depend on how many images a class has, or have parameters for each class.
_OF_COUNTS = ("lace_post_hoc", "heteroscedastic", "paco", "mile")


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
        # Neither TensorFlow nor JAX may take the whole memory of an accelerator.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
        self.source, self.follow, self._seeds = Source(path, follow, unsafe_models), follow, seeds
        self.heads = trained.heads(self.source.runs)
        self._lock = threading.RLock()
        self._engines: dict[str, Engine] = {}
        self._texts: dict[str, tuple[TextEncoder, EncoderSpec]] = {}
        self.first = self.engine(head or self.heads[0]).trained
        self._state: State | None = self.source.load(self.first)
        self._images: ImageEncoder | None = None
        # The least number of images of a call that gives the bits of a full batch; 0 as long as that is unknown.
        self._part = 0

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
        size = self.embed.batch_size
        parts = [
            self._encode([photograph.pixels for photograph in photographs[begin : begin + size]])
            for begin in range(0, len(photographs), size)
        ]
        keys = self.key_spec.info.stored(np.concatenate(parts))
        if wrong := sorted({*schemas.unusable(keys)[0], *schemas.unusable(keys)[1]}):
            raise UserError(f"image {first + wrong[0] + 1}: the encoder gives it no vector that can be used")
        return keys

    def _encode(self, batch: list[np.ndarray]) -> np.ndarray:
        """Encodes at most a batch, few photographs in parts that give the bits which they have in a full batch.

        Bits differ where sums have another order, which depends on the shape of a batch and not on what is in it. So
        the first few photographs fill a whole batch, are encoded in parts too, and what is equal for them is for all.
        """
        size = self.embed.batch_size
        if len(batch) > size * _FEW:
            return self.load_encoder().encode(batch, size)
        if self._part:
            return self._in_parts(batch, self._part)
        full = self.load_encoder().encode((batch * size)[:size], size)
        parts = (part for part in _PARTS if part < size)
        self._part = next(
            (part for part in parts if np.array_equal(np.resize(self._in_parts(batch, part), full.shape), full)), size
        )
        return full[: len(batch)]

    def _in_parts(self, batch: list[np.ndarray], part: int) -> np.ndarray:
        encoder = self.load_encoder()
        return np.concatenate([encoder.encode(batch[i : i + part], part) for i in range(0, len(batch), part)])

    def image_query(self, image: Any) -> np.ndarray:
        """Returns the key of a photograph to search for, float32 `[1, D]`, unit length; errors as `pixels`, `keys`."""
        from pipelines.encoders import loaded

        return loaded.unit(self.keys(self.pixels([image])).astype(np.float32))

    def text_query(self, text: str) -> np.ndarray:
        """Returns the vector of a text in the space of the keys, float32 `[1, D]`, unit length.

        Raises:
            UserError: if no text encoder shares that space.
        """
        from pipelines.encoders import loaded

        encoder, _ = self._text_encoder(self.key_space_column())
        return loaded.unit(encoder.encode_all([text], self.embed.batch_size))

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

    def _text_encoder(self, column: str) -> "tuple[TextEncoder, EncoderSpec]":
        """Returns the text encoder of a column, which is loaded the first time."""
        from pipelines.encoders import loaded

        with self._lock:
            if column not in self._texts:
                spec = self.source.encoder(column, self.first)
                self._texts[column] = loaded.TextEncoder(spec), spec
            return self._texts[column]

    def extended(self, engine: Engine, names: Sequence[str]) -> Engine:
        """Returns a head that knows more classes, by their names alone.

        Args:
            engine: the head.
            names: of the classes; commas separate synonyms.

        Raises:
            UserError: if a name is empty or known, or the head cannot take names that were not trained.
        """
        if not names:
            return engine
        of, state = engine.trained, self.state()
        kind = registry.get(of.head)
        if kind.extend is None or of.train.loss in _OF_COUNTS:
            takers = ", ".join(name for name, head in registry.HEADS.items() if head.extend)
            why = "" if kind.extend is None else f" trained with loss {of.train.loss}"
            raise UserError(
                f"head {of.head}{why}: takes no classes that were not trained; heads that do are {takers}, trained "
                "with lace or cross_entropy"
            )
        added = [name.strip() for name in names]
        for place, name in enumerate(added):
            if not name or name in of.classes or name in added[:place]:
                raise UserError(f"class name {name!r}: is {'known already' if name else 'empty'}; name others")
        column = self.key_space_column() if kind.names_kind == KEY else f"value_{kind.names_kind}"
        offsets = [result.get("new_class_offset") for result in of.results.values()]
        if None in offsets:
            raise UserError(
                f"head {of.head}: its result.json has no new_class_offset, it is of an older version; remove that file "
                "and run web-memory train again, which ends the run from its last checkpoint"
            )
        from pipelines.embedding.names import class_names, class_texts

        parts = [class_texts.phrases(name) for name in added]
        if kind.names_kind == KEY:
            parts = [class_texts.prompted(part, of.encoders.prompts) for part in parts]
        encoder, spec = self._text_encoder(column)
        vectors = class_names.encode(added, parts, encoder, spec, self.embed.batch_size).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        texts = state.memory.vectors.get(f"value_{kind.names_kind}", np.zeros((len(state.memory.ids), 0)))
        new = NewClasses(vectors, state.memory.vectors[KEY], texts, of.train)
        params, prepared = {}, of.prepared
        for seed, both in of.params.items():
            head, prepared = kind.extend(both["head"], of.prepared, new)
            params[seed] = {**both, "head": head}
        more = dataclasses.replace(
            of,
            classes=(*of.classes, *added),
            class_counts=np.concatenate([of.class_counts, np.zeros(len(added), np.int64)]),
            prepared=prepared,
            params=params,
        )
        shift = np.zeros(len(more.classes), np.float32)
        shift[len(of.classes) :] = np.mean([float(offset) for offset in offsets if offset is not None])
        return Engine(more, shift)

    def trained(self, head: str) -> Trained:
        """Returns what is known of a head."""
        return self.engine(head).trained
