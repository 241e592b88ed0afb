"""The EfficientNet-Lite graph: checkpoint tensors in, a TensorFlow module of pooled features out.

The architecture is EfficientNet (Tan & Le 2019) in its "Lite" variant: no squeeze-and-excite, ReLU6, stem and head not
scaled. Batch norm is folded into the convolutions, and the graph scales pixels. `builtin` supplies the tensors; callers
decode, crop and resize images.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf

_BATCH_NORM_EPSILON = 1e-3
_PIXEL_MEAN = 127.0
_PIXEL_SCALE = 128.0
# (repeats at depth 1, stride of the first block) of each stage; widths, kernel sizes and expansion
# ratios are those of the tensors.
_STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A convolution with its batch norm folded in.

    Attributes:
        kernel: float32 [H, W, C_in, C_out], for depthwise convolutions [H, W, C, 1].
        bias: float32 [C_out].
        stride: of both spatial axes.
    """

    kernel: np.ndarray
    bias: np.ndarray
    stride: int = 1


@dataclasses.dataclass(frozen=True)
class Block:
    """An inverted residual block; `expand` is absent where the expansion ratio is 1."""

    expand: Convolution | None
    depthwise: Convolution
    project: Convolution
    residual: bool


@dataclasses.dataclass(frozen=True)
class Network:
    """All parameters of one variant; the classifier is float32 [1280, 1000] and [1000]."""

    stem: Convolution
    blocks: tuple[Block, ...]
    head: Convolution
    classifier_kernel: np.ndarray
    classifier_bias: np.ndarray


def fold(tensors: Mapping[str, np.ndarray], depth: float) -> Network:
    """Folds batch norm into the convolutions, in float64, and lays the kernels out for TensorFlow.

    Args:
        tensors: a checkpoint in PyTorch layout: kernels [C_out, C_in, H, W], names such as
            `_blocks.3._expand_conv.weight`.
        depth: the variant's depth multiplier; the first and the last stage are never repeated.

    Raises:
        KeyError: a tensor is missing.
        ValueError: the number of blocks is not that of `depth`.
    """

    def convolution(kernel_name: str, norm_name: str, stride: int = 1) -> Convolution:
        kernel = tensors[f"{kernel_name}.weight"].astype(np.float64)
        gamma, beta, mean, variance = (
            tensors[f"{norm_name}.{part}"].astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(variance + _BATCH_NORM_EPSILON)
        is_depthwise = kernel_name.endswith("_depthwise_conv")
        return Convolution(
            (kernel * scale[:, None, None, None])
            .transpose((2, 3, 0, 1) if is_depthwise else (2, 3, 1, 0))
            .astype(np.float32, order="C"),
            (beta - mean * scale).astype(np.float32),
            stride,
        )

    def block(index: int, stride: int) -> Block:
        prefix = f"_blocks.{index}"
        expand = None
        if f"{prefix}._expand_conv.weight" in tensors:
            expand = convolution(f"{prefix}._expand_conv", f"{prefix}._bn0")
        depthwise = convolution(f"{prefix}._depthwise_conv", f"{prefix}._bn1", stride)
        project = convolution(f"{prefix}._project_conv", f"{prefix}._bn2")
        c_in = (expand or depthwise).kernel.shape[2]
        residual = stride == 1 and c_in == project.kernel.shape[3]
        return Block(expand, depthwise, project, residual)

    strides: list[int] = []
    for stage, (repeats, stride) in enumerate(_STAGES):
        if 0 < stage < len(_STAGES) - 1:
            repeats = math.ceil(repeats * depth)
        strides += [stride] + [1] * (repeats - 1)
    if f"_blocks.{len(strides)}._project_conv.weight" in tensors:
        raise ValueError(f"the checkpoint has more than the {len(strides)} blocks of this variant")
    return Network(
        stem=convolution("_conv_stem", "_bn0", stride=2),
        blocks=tuple(block(index, stride) for index, stride in enumerate(strides)),
        head=convolution("_conv_head", "_bn1"),
        classifier_kernel=np.ascontiguousarray(tensors["_fc.weight"].T, np.float32),
        classifier_bias=tensors["_fc.bias"].astype(np.float32),
    )


def build_module(network: Network, size: int) -> "tf.Module":
    """Builds the TensorFlow module, with the parameters as constants of its graph.

    Constants rather than variables: grappler then fuses convolution, bias and ReLU6, and the
    kernels are packed for the processor once instead of at every call.

    Args:
        network: what `fold` returned.
        size: height and width of the input, pixels.

    Returns:
        A module with two functions of uint8 [B, size, size, 3] RGB images: `features`, which is
        also `__call__`, returns the global average pooled float32 [B, 1280], and `logits` returns
        the ImageNet-1k logits float32 [B, 1000].
    """
    import tensorflow as tf

    def convolve(layer: Convolution, inputs: "tf.Tensor") -> "tf.Tensor":
        outputs = tf.nn.conv2d(inputs, layer.kernel, layer.stride, "SAME")
        return tf.nn.bias_add(outputs, layer.bias)

    def convolve_depthwise(layer: Convolution, inputs: "tf.Tensor") -> "tf.Tensor":
        strides = (1, layer.stride, layer.stride, 1)
        outputs = tf.nn.depthwise_conv2d(inputs, layer.kernel, strides, "SAME")
        return tf.nn.bias_add(outputs, layer.bias)

    images = tf.TensorSpec((None, size, size, 3), tf.uint8, name="images")

    class EfficientNetLite(tf.Module):
        @tf.function(input_signature=[images])
        def features(self, images: "tf.Tensor") -> "tf.Tensor":
            x = (tf.cast(images, tf.float32) - _PIXEL_MEAN) * (1 / _PIXEL_SCALE)
            x = tf.nn.relu6(convolve(network.stem, x))
            for block in network.blocks:
                inputs = x
                if block.expand is not None:
                    x = tf.nn.relu6(convolve(block.expand, x))
                x = tf.nn.relu6(convolve_depthwise(block.depthwise, x))
                x = convolve(block.project, x)
                if block.residual:
                    x = x + inputs
            x = tf.nn.relu6(convolve(network.head, x))
            return tf.reduce_mean(x, (1, 2), name="features")

        __call__ = features

        @tf.function(input_signature=[images])
        def logits(self, images: "tf.Tensor") -> "tf.Tensor":
            products = tf.matmul(self.features(images), network.classifier_kernel)
            return tf.nn.bias_add(products, network.classifier_bias, name="logits")

    return EfficientNetLite(name="efficientnet_lite")
