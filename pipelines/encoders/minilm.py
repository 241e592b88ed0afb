"""The all-MiniLM-L6-v2 graph: safetensors weights in, a TensorFlow module of sentence vectors out.

The architecture is BERT (Devlin et al. 2019) with 6 layers of width 384, and the mean pooling of Sentence-BERT (Reimers
& Gurevych 2019). `builtin` supplies the weights; callers run the tokenizer, which is configured here.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf

DIM = 384
MAX_TOKENS = 256
"""Word pieces in a sentence, including both special tokens; longer ones are truncated, as in the model card."""

_NUM_LAYERS = 6
_NUM_HEADS = 12
_HEAD_DIM = DIM // _NUM_HEADS
_LAYER_NORM_EPSILON = 1e-12
_MASKED = -1e9


def configure_tokenizer(tokenizer_json: bytes) -> bytes:
    """Returns a `tokenizer.json` that truncates at `MAX_TOKENS` and pads to the longest sentence of a batch.

    The published file pads every sentence to 128 tokens, ten times the work for captions.
    """
    settings = json.loads(tokenizer_json)
    settings["truncation"]["max_length"] = MAX_TOKENS
    settings["padding"]["strategy"] = "BatchLongest"
    return json.dumps(settings, ensure_ascii=False, separators=(",", ":")).encode()


class _Layers:
    """The layers of BERT, named as in a Hugging Face `BertModel`; activations are float32 `[B * T, C]`."""

    def __init__(self, tensors: Mapping[str, np.ndarray]) -> None:
        import tensorflow

        self._tf, self._tensors = tensorflow, tensors

    def linear(self, name: str, inputs: "tf.Tensor") -> "tf.Tensor":
        outputs = self._tf.matmul(inputs, np.ascontiguousarray(self._tensors[f"{name}.weight"].T))
        return self._tf.nn.bias_add(outputs, self._tensors[f"{name}.bias"])

    def layer_norm(self, name: str, inputs: "tf.Tensor") -> "tf.Tensor":
        tf, mean = self._tf, self._tf.reduce_mean(inputs, -1, keepdims=True)
        variance = tf.reduce_mean(tf.math.squared_difference(inputs, mean), -1, keepdims=True)
        scale = tf.math.rsqrt(variance + _LAYER_NORM_EPSILON) * self._tensors[f"{name}.weight"]
        return inputs * scale + (self._tensors[f"{name}.bias"] - mean * scale)

    def attention(self, name: str, inputs: "tf.Tensor", mask_bias: "tf.Tensor", shape: "tf.Tensor") -> "tf.Tensor":
        def heads(part: str) -> "tf.Tensor":
            outputs = self.linear(f"{name}.self.{part}", inputs)
            outputs = self._tf.reshape(outputs, (shape[0], shape[1], _NUM_HEADS, _HEAD_DIM))
            return self._tf.transpose(outputs, (0, 2, 1, 3))

        scores = self._tf.matmul(heads("query"), heads("key"), transpose_b=True)
        weights = self._tf.nn.softmax(scores * _HEAD_DIM**-0.5 + mask_bias)
        context = self._tf.transpose(self._tf.matmul(weights, heads("value")), (0, 2, 1, 3))
        outputs = self.linear(f"{name}.output.dense", self._tf.reshape(context, (-1, DIM)))
        return self.layer_norm(f"{name}.output.LayerNorm", outputs + inputs)

    def feed_forward(self, name: str, inputs: "tf.Tensor") -> "tf.Tensor":
        hidden = self._tf.nn.gelu(self.linear(f"{name}.intermediate.dense", inputs), approximate=False)
        return self.layer_norm(f"{name}.output.LayerNorm", self.linear(f"{name}.output.dense", hidden) + inputs)

    def embed(self, token_ids: "tf.Tensor", shape: "tf.Tensor") -> "tf.Tensor":
        tf, tensors = self._tf, self._tensors
        position_and_type = (
            tensors["embeddings.position_embeddings.weight"] + tensors["embeddings.token_type_embeddings.weight"][0]
        )
        x = tf.gather(tensors["embeddings.word_embeddings.weight"], token_ids)
        x = tf.reshape(x + tf.constant(position_and_type)[: shape[1]], (-1, DIM))
        return self.layer_norm("embeddings.LayerNorm", x)


def build_module(tensors: Mapping[str, np.ndarray]) -> "tf.Module":
    """Builds the TensorFlow module, with the weights as constants of its graph.

    Args:
        tensors: float32 weights under the names of a Hugging Face `BertModel`; linear kernels are
            [C_out, C_in].

    Returns:
        A module whose `features`, which is also `__call__`, maps token ids int32 [B, T] and an
        attention mask int32 [B, T] (1 for tokens, 0 for padding; T at most 512) to float32
        [B, 384]: the mean of the token vectors under the mask, of unit length.

    Raises:
        KeyError: a tensor is missing.
    """
    import tensorflow as tf

    layers = _Layers(tensors)
    token_spec = tf.TensorSpec((None, None), tf.int32, name="token_ids")
    mask_spec = tf.TensorSpec((None, None), tf.int32, name="attention_mask")

    class MiniLm(tf.Module):
        @tf.function(input_signature=[token_spec, mask_spec])
        def features(self, token_ids: "tf.Tensor", attention_mask: "tf.Tensor") -> "tf.Tensor":
            shape = tf.shape(token_ids)
            mask = tf.cast(attention_mask, tf.float32)
            mask_bias = (1 - mask)[:, None, None, :] * _MASKED
            x = layers.embed(token_ids, shape)
            for layer in range(_NUM_LAYERS):
                x = layers.attention(f"encoder.layer.{layer}.attention", x, mask_bias, shape)
                x = layers.feed_forward(f"encoder.layer.{layer}", x)
            x = tf.reshape(x, (shape[0], shape[1], DIM))
            # A sum instead of a mean: normalisation removes the factor.
            pooled = tf.einsum("btd,bt->bd", x, mask)
            return tf.math.l2_normalize(pooled, -1, name="features")

        __call__ = features

    return MiniLm(name="minilm")
