"""Encoders of a few random weights, as SavedModel folders, and corpora of a few images: for unit tests only."""

import io
import json
import pathlib
import tarfile

import numpy as np
from PIL import Image

SIZE, DIM, TEXT_DIM = 16, 6, 5
WORDS = ["[UNK]", "a", "red", "green", "blue", "dog", "cat"]


def save_image_encoder(folder: pathlib.Path, seed: int = 0) -> np.ndarray:
    """Saves an encoder that projects the mean colour of each quadrant; returns its weights `[12, DIM]`."""
    import tensorflow as tf

    weights = np.random.default_rng(seed).normal(size=(12, DIM)).astype(np.float32)

    class Encoder(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, SIZE, SIZE, 3], tf.uint8)])
        def __call__(self, images):
            pixels = tf.cast(images, tf.float32) / 255
            quadrants = tf.nn.avg_pool2d(pixels, SIZE // 2, SIZE // 2, "VALID")
            return tf.reshape(quadrants, [-1, 12]) @ weights

    tf.saved_model.save(Encoder(), str(folder))
    preprocess = {"size": SIZE, "crop_fraction": 1.0, "resize": "bicubic"}
    _describe(folder, "image", DIM, preprocess)
    return weights


def save_text_encoder(folder: pathlib.Path, seed: int = 0, dim: int = TEXT_DIM) -> np.ndarray:
    """Saves an encoder that averages word vectors; returns them, `[words, dim]`."""
    import tensorflow as tf
    import tokenizers

    vectors = np.random.default_rng(seed).normal(size=(len(WORDS), dim)).astype(np.float32)

    class Encoder(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)] * 2)
        def __call__(self, tokens, mask):
            weight = tf.cast(mask, tf.float32)[..., None]
            return tf.reduce_sum(tf.gather(vectors, tokens) * weight, 1)

    tf.saved_model.save(Encoder(), str(folder))
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    _describe(folder, "text", dim, {"tokenizer": "tokenizer.json", "max_tokens": 8})
    return vectors


def _describe(folder: pathlib.Path, kind: str, dim: int, preprocess: dict) -> None:
    description = {"name": folder.name, "kind": kind, "dim": dim, "preprocess": preprocess}
    (folder / "encoder.json").write_text(json.dumps(description))


def image_bytes(seed: int, kind: str = "PNG") -> bytes:
    """Returns a small random image."""
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write_tar(path: pathlib.Path, pairs: list[tuple[str, bytes, str | None]]) -> None:
    """Writes pairs of key, image and caption as img2dataset does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, image, caption in pairs:
            metadata = json.dumps({"url": f"http://host/{key}"}).encode()
            members = [("jpg", image), ("json", metadata)]
            members += [("txt", caption.encode())] if caption is not None else []
            for suffix, data in members:
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
