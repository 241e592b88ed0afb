"""Loaded encoders: a model as a function of a batch of images or texts that returns vectors.

`handles` resolves what is loaded here; `saved_model` and `onnx.session` call the models.
"""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.encoders import model_files, process, saved_model
from pipelines.encoders.handles import EncoderSpec
from pipelines.encoders.onnx import files as onnx_files
from pipelines.encoders.onnx import session as onnx_session
from pipelines.errors import UserError
from pipelines.images.decode import ImagePreprocess

_TEXT_LENGTH_STEP = 8
_SHORTEST = 1e-12


def finish(vectors: np.ndarray, spec: EncoderSpec) -> np.ndarray:
    """Checks the width of vectors `[n, dim]` and scales them to unit length if the spec says so; float32.

    A vector shorter than 1e-12, which no encoder means, becomes zero; one with a value that is not finite stays so.
    """
    if vectors.ndim != 2 or vectors.shape[1] != spec.info.dim:
        raise UserError(
            f"encoder {spec.handle!r}: gives {list(vectors.shape[1:])}, its description says [{spec.info.dim}]"
        )
    vectors = vectors.astype(np.float32, copy=False)
    return unit(vectors) if spec.info.normalized else vectors


def unit(vectors: np.ndarray) -> np.ndarray:
    """Returns vectors `[n, dim]` float32 at unit length; zero if they are shorter than 1e-12."""
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
        scaled = vectors / np.maximum(lengths, _SHORTEST)
        # The squares of float32 are too large for it long before the values are.
        for row in np.flatnonzero(~((lengths >= _SHORTEST) & (lengths < np.inf))):
            exact = vectors[row].astype(np.float64)
            length = np.linalg.norm(exact)
            scaled[row] = 0 if length < _SHORTEST else exact / length
    return scaled


class ImageEncoder:
    """A loaded image encoder."""

    def __init__(self, spec: EncoderSpec) -> None:
        """Loads the model."""
        self.preprocess = ImagePreprocess(**spec.description["preprocess"])
        self._spec = spec
        self._model = _load(spec)[1]

    def encode(self, images: Sequence[np.ndarray | None], batch_size: int) -> np.ndarray:
        """Encodes at most `batch_size` images uint8 `[size, size, 3]` to vectors `[n, dim]` float32.

        A short batch is padded and None is a black image, so that the graph sees one shape and a row's bits do not
        depend on the number of other rows.
        """
        size = self.preprocess.size
        batch = np.zeros((batch_size, size, size, 3), np.uint8)
        for row, image in enumerate(images):
            if image is not None:
                batch[row] = image
        return finish(self._model(self.preprocess.scale(batch))[: len(images)], self._spec)


def _load(spec: EncoderSpec) -> tuple[pathlib.Path, saved_model.Model]:
    """Loads a SavedModel or an ONNX file; returns the folder of its files with it."""
    if onnx_files.is_onnx(spec.model):
        path = onnx_files.local(spec.model, spec.description)
        return path.parent, onnx_session.load(path, spec.description)
    process.set_compute(spec.compute)
    folder = model_files.local_folder(spec.model, spec.description)
    return folder, saved_model.load(folder, spec.description, spec.unsafe)


class TextEncoder:
    """A loaded text encoder, with its tokenizer if it takes token ids."""

    def __init__(self, spec: EncoderSpec) -> None:
        """Loads the model and its tokenizer, if it has one."""
        self._spec, preprocess = spec, spec.description["preprocess"]
        folder, self._model = _load(spec)
        self._tokenizer: Any = None
        if preprocess:
            import tokenizers

            path = folder / preprocess["tokenizer"]
            try:
                self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
            except Exception as error:
                # The library has no exception of its own.
                raise UserError(f"{path}: is not a tokenizer ({error})") from error
        self._is_free = bool(self._tokenizer) and not self._model.length
        if self._tokenizer:
            _cut_and_pad(self._tokenizer, preprocess["max_tokens"], self._model.length)

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return self._spec.info.dim

    def calls(self, texts: Sequence[str], batch_size: int) -> list[list[int]]:
        """Groups any number of texts into calls of `encode`; returns the places of the texts of each.

        Where the model takes any length, the texts of a call have the same length, rounded up to a multiple of 8, and
        long texts are fewer: a call has about as many tokens as `batch_size` texts of 8.
        """
        by_length: dict[int, list[int]] = {}
        for place, length in enumerate(map(_padded, self._tokenizer.encode_batch(texts)) if self._is_free else ()):
            by_length.setdefault(length, []).append(place)
        groups = sorted(by_length.items()) if self._is_free else [(_TEXT_LENGTH_STEP, [*range(len(texts))])]
        rows = {length: _rows(length, batch_size) for length, _ in groups}
        return [p[first : first + rows[n]] for n, p in groups for first in range(0, len(p), rows[n])]

    def encode(self, texts: Sequence[str | None], batch_size: int) -> np.ndarray:
        """Encodes the texts of one of the `calls` to vectors `[n, dim]` float32; None is an empty text.

        The graph sees one shape for each length, so that a text's bits do not depend on the other texts.
        """
        batch = [text or "" for text in texts]
        if self._is_free:
            encodings = self._tokenizer.encode_batch([*batch, ""])
            length = max(map(_padded, encodings))
            encodings += encodings[-1:] * (_rows(length, batch_size) - len(encodings))
            tokens, mask = np.zeros((2, len(encodings), length), np.int32)
            for row, encoding in enumerate(encodings):
                tokens[row, : len(encoding.ids)], mask[row, : len(encoding.ids)] = encoding.ids, 1
            return finish(self._model(tokens, mask)[: len(texts)], self._spec)
        batch += [""] * (batch_size - len(texts))
        if self._tokenizer is None:
            import tensorflow as tf

            return finish(self._model(tf.constant(batch))[: len(texts)], self._spec)
        encodings = self._tokenizer.encode_batch(batch)
        tokens = np.array([e.ids for e in encodings], np.int32)
        mask = np.array([e.attention_mask for e in encodings], np.int32)
        return finish(self._model(tokens, mask)[: len(texts)], self._spec)

    def encode_all(self, texts: Sequence[str], batch_size: int) -> np.ndarray:
        """Encodes any number of texts to vectors `[n, dim]` float32."""
        vectors = np.zeros((len(texts), self.dim), np.float32)
        for places in self.calls(texts, batch_size):
            vectors[places] = self.encode([texts[place] for place in places], batch_size)
        return vectors


def _padded(encoding: Any) -> int:
    """Returns the tokens of a text, rounded up to what the graph sees."""
    return max(math.ceil(len(encoding.ids) / _TEXT_LENGTH_STEP), 1) * _TEXT_LENGTH_STEP


def _rows(length: int, batch_size: int) -> int:
    """Returns the texts of a call, by their padded length."""
    return max(batch_size * _TEXT_LENGTH_STEP // length, 1)


def _cut_and_pad(tokenizer: Any, max_tokens: int, length: int) -> None:
    """Sets a tokenizer to the length that a model states or, if that is 0, to cut texts only.

    Models of a fixed length may see what is after the end of a text, so the tokenizer's own padding is used for them.
    """
    if not length:
        tokenizer.enable_truncation(max_tokens)
        tokenizer.no_padding()
        return
    own = tokenizer.padding or {}
    tokenizer.enable_truncation(min(max_tokens, length))
    known = {name: own[name] for name in ("pad_id", "pad_type_id", "pad_token") if name in own}
    tokenizer.enable_padding(length=length, **known)


class EncoderSet:
    """The loaded encoders of all columns; an encoder of several columns is loaded, and run, once.

    Attributes:
        columns: the loaded encoder of each column.
    """

    def __init__(self, specs: Mapping[str, EncoderSpec]) -> None:
        """Loads each encoder; vectors that a source provides need none."""
        loaded: dict[str, ImageEncoder | TextEncoder] = {}
        for spec in specs.values():
            if spec.kind != "precomputed" and spec.handle not in loaded:
                loaded[spec.handle] = ImageEncoder(spec) if spec.kind == "image" else TextEncoder(spec)
        self.columns = {column: loaded[spec.handle] for column, spec in specs.items() if spec.handle in loaded}
