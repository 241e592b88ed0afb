"""SavedModels of every form, whose vectors NumPy knows, and descriptions of them."""

import functools

import numpy as np
import tensorflow as tf
import tokenizers

from pipelines.encoders.handles import resolve
from pipelines.encoders.loaded import ImageEncoder

SIZE, DIM = 4, 3
IMAGE = {"name": "tiny", "kind": "image", "dim": DIM, "preprocess": {"size": SIZE}}
TEXT = {"name": "tiny", "kind": "text", "dim": DIM, "preprocess": {}}
TOKENS = {**TEXT, "preprocess": {"tokenizer": "tokenizer.json", "max_tokens": 8}}
BATCH = 4


class Model(tf.Module):
    """Each function gives the mean colour, or the length of texts, in another form; `factor` tells them apart."""

    def __init__(self):
        super().__init__()
        self.factor = tf.Variable([[1.0, 2.0, 3.0]])

    def _mean(self, images):
        return tf.reduce_mean(tf.cast(images, tf.float32), [1, 2]) * self.factor

    def _lengths(self, texts):
        return tf.cast(tf.strings.length(texts), tf.float32)[:, None] * self.factor


class Plain(Model):
    @tf.function(input_signature=[tf.TensorSpec([None, SIZE, SIZE, 3], tf.uint8)])
    def __call__(self, images):
        return self._mean(images)


class Signatures(Model):
    """Cannot be called itself."""

    @tf.function(input_signature=[tf.TensorSpec([None, SIZE, SIZE, 3], tf.uint8, "pixels")])
    def one(self, pixels):
        return {"only": self._mean(pixels)}

    @tf.function(input_signature=[tf.TensorSpec([None, SIZE, SIZE, 3], tf.float32, "pixels")])
    def scaled(self, pixels):
        mean = self._mean(pixels)
        return {"mean": mean, "negative": -mean, "wide": tf.concat([mean, mean], 1), "first": mean[:1]}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None], tf.int64, "mask"),
            tf.TensorSpec([None, None], tf.int64, "ids"),
        ]
    )
    def tokens(self, mask, ids):
        return {"sum": tf.cast(tf.reduce_sum(mask * ids, 1), tf.float32)[:, None] * self.factor}


class Tuple(Model):
    @tf.function(input_signature=[tf.TensorSpec([None, SIZE, SIZE, 3], tf.uint8)])
    def __call__(self, images):
        return self._mean(images), -self._mean(images)


class Strings(Model):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, texts):
        return (self._lengths(texts),)


class Named(Model):
    @tf.function(input_signature=[{"picture": tf.TensorSpec([None, SIZE, SIZE, 3], tf.uint8)}])
    def __call__(self, inputs):
        return self._mean(inputs["picture"])


class TokenIds(Model):
    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int64)] * 2)
    def __call__(self, ids, mask):
        return tf.cast(tf.reduce_sum(mask * ids, 1), tf.float32)[:, None] * self.factor


@functools.cache
def saved(kind, root):
    folder = root / kind.__name__.lower()
    model = kind()
    names = ("one", "scaled", "tokens") if kind is Signatures else ()
    tf.saved_model.save(model, str(folder), signatures={name: getattr(model, name) for name in names})
    return folder


def save_tokenizer(folder):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 5, "red": 11, "dog": 7}, "[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))


def images(count=3):
    return list(np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8))


def mean(pixels):
    return np.mean(np.asarray(pixels, np.float64), (1, 2)) * [1, 2, 3]


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def encode(handle, pixels, normalize=False):
    return ImageEncoder(resolve(handle, "float32", normalize)).encode(pixels, BATCH)
