"""The all-MiniLM-L6-v2 graph: safetensors weights in, a TensorFlow module of sentence vectors out.

Owns the architecture (BERT, Devlin et al. 2019, with 6 layers of width 384, and the mean pooling
of Sentence-BERT, Reimers & Gurevych 2019) and the settings of its tokenizer. Where the weights
come from is left to `builtin_encoders`; running the tokenizer to its callers.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf

DIM = 384
MAX_TOKENS = 256
"""Word pieces per sentence, both special tokens included; the model card cuts longer ones here."""

_NUM_LAYERS = 6
_NUM_HEADS = 12
_HEAD_DIM = DIM // _NUM_HEADS
_LAYER_NORM_EPSILON = 1e-12
_MASKED = -1e9


def configure_tokenizer(tokenizer_json: bytes) -> bytes:
    """Returns a `tokenizer.json` that cuts at `MAX_TOKENS` and pads to the longest of a batch.

    The published file pads every sentence to 128 tokens, which for captions is ten times the work.
    """
    settings = json.loads(tokenizer_json)
    settings["truncation"]["max_length"] = MAX_TOKENS
    settings["padding"]["strategy"] = "BatchLongest"
    return json.dumps(settings, ensure_ascii=False, separators=(",", ":")).encode()


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

    def linear(name: str, inputs: "tf.Tensor") -> "tf.Tensor":
        outputs = tf.matmul(inputs, np.ascontiguousarray(tensors[f"{name}.weight"].T))
        return tf.nn.bias_add(outputs, tensors[f"{name}.bias"])

    def layer_norm(name: str, inputs: "tf.Tensor") -> "tf.Tensor":
        mean = tf.reduce_mean(inputs, -1, keepdims=True)
        variance = tf.reduce_mean(tf.math.squared_difference(inputs, mean), -1, keepdims=True)
        scale = tf.math.rsqrt(variance + _LAYER_NORM_EPSILON) * tensors[f"{name}.weight"]
        return inputs * scale + (tensors[f"{name}.bias"] - mean * scale)

    def attention(name: str, inputs: "tf.Tensor", mask_bias: "tf.Tensor", shape: "tf.Tensor") -> "tf.Tensor":
        def heads(part: str) -> "tf.Tensor":
            outputs = linear(f"{name}.self.{part}", inputs)
            outputs = tf.reshape(outputs, (shape[0], shape[1], _NUM_HEADS, _HEAD_DIM))
            return tf.transpose(outputs, (0, 2, 1, 3))

        scores = tf.matmul(heads("query"), heads("key"), transpose_b=True)
        weights = tf.nn.softmax(scores * _HEAD_DIM**-0.5 + mask_bias)
        context = tf.transpose(tf.matmul(weights, heads("value")), (0, 2, 1, 3))
        outputs = linear(f"{name}.output.dense", tf.reshape(context, (-1, DIM)))
        return layer_norm(f"{name}.output.LayerNorm", outputs + inputs)

    def feed_forward(name: str, inputs: "tf.Tensor") -> "tf.Tensor":
        hidden = tf.nn.gelu(linear(f"{name}.intermediate.dense", inputs), approximate=False)
        return layer_norm(f"{name}.output.LayerNorm", linear(f"{name}.output.dense", hidden) + inputs)

    token_spec = tf.TensorSpec((None, None), tf.int32, name="token_ids")
    mask_spec = tf.TensorSpec((None, None), tf.int32, name="attention_mask")

    class MiniLm(tf.Module):
        @tf.function(input_signature=[token_spec, mask_spec])
        def features(self, token_ids: "tf.Tensor", attention_mask: "tf.Tensor") -> "tf.Tensor":
            shape = tf.shape(token_ids)
            mask = tf.cast(attention_mask, tf.float32)
            mask_bias = (1 - mask)[:, None, None, :] * _MASKED
            position_and_type = (
                tensors["embeddings.position_embeddings.weight"] + tensors["embeddings.token_type_embeddings.weight"][0]
            )
            x = tf.gather(tensors["embeddings.word_embeddings.weight"], token_ids)
            x = tf.reshape(x + tf.constant(position_and_type)[: shape[1]], (-1, DIM))
            x = layer_norm("embeddings.LayerNorm", x)
            for layer in range(_NUM_LAYERS):
                x = attention(f"encoder.layer.{layer}.attention", x, mask_bias, shape)
                x = feed_forward(f"encoder.layer.{layer}", x)
            x = tf.reshape(x, (shape[0], shape[1], DIM))
            # A sum rather than a mean: the length of the vector falls out below.
            pooled = tf.einsum("btd,bt->bd", x, mask)
            return tf.math.l2_normalize(pooled, -1, name="features")

        __call__ = features

    return MiniLm(name="minilm")
