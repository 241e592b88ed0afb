"""What a tower is, whatever checkpoint it comes from: its form, and the arrays that it needs by name and shape.

Readers of checkpoints (`hugging_face`, `npz_files`) return a `Tower`; `graph` computes it. Kernels are
`[C_in, C_out]`. An array is named by its place: `blocks.0.attention.query.kernel`.
"""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from pipelines.errors import UserError

_MOST_NAMED = 3
Shapes = dict[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Blocks:
    """The blocks of a transformer.

    Attributes:
        depth: number of blocks.
        width: of the tokens.
        heads: attention heads.
        hidden: width within the MLP.
        activation: of the MLP, a name in `graph.ACTIVATIONS`.
        epsilon: of the norms.
        head_width: of queries, keys and values; 0 for `width / heads`.
        post_norm: whether norms follow the sums (BERT) instead of preceding attention and MLP.
        rms_norm: whether norms only scale (T5).
        gated: whether the MLP multiplies two layers (SwiGLU).
        layer_scale: whether what is added is first scaled per channel (DINO).
        causal: whether a token sees only those before it.
        is_scaled: whether products of queries and keys are divided by the root of their width; not in T5.
        unbiased: the layers without a bias, such as `attention.key`.
    """

    depth: int
    width: int
    heads: int
    hidden: int
    activation: str
    epsilon: float
    head_width: int = 0
    post_norm: bool = False
    rms_norm: bool = False
    gated: bool = False
    layer_scale: bool = False
    causal: bool = False
    is_scaled: bool = True
    unbiased: tuple[str, ...] = ()

    @property
    def key_width(self) -> int:
        """Width of the queries, keys and values of one head."""
        return self.head_width or self.width // self.heads

    def linear(self, name: str, place: str, inputs: int, outputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yields the arrays of a linear layer at a place, such as `blocks.0.`."""
        yield f"{place}{name}.kernel", (inputs, outputs)
        if name not in self.unbiased:
            yield f"{place}{name}.bias", (outputs,)

    def norm(self, name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yields the arrays of a norm."""
        yield f"{name}.scale", (self.width,)
        if not self.rms_norm:
            yield f"{name}.bias", (self.width,)

    def attention(self, place: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yields the arrays of an attention."""
        inner = self.heads * self.key_width
        for part in ("query", "key", "value"):
            yield from self.linear(f"attention.{part}", place, self.width, inner)
        yield from self.linear("attention.out", place, inner, self.width)

    def mlp(self, place: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yields the arrays of an MLP."""
        for part in ("gate", "in") if self.gated else ("in",):
            yield from self.linear(f"mlp.{part}", place, self.width, self.hidden)
        yield from self.linear("mlp.out", place, self.hidden, self.width)

    def shapes(self) -> Shapes:
        """Returns the shape of each array of all blocks."""
        found: Shapes = {}
        for block in range(self.depth):
            place = f"blocks.{block}."
            found |= dict(self.norm(f"{place}norm1")) | dict(self.norm(f"{place}norm2"))
            found |= dict(self.attention(place)) | dict(self.mlp(place))
            if self.layer_scale:
                found |= {f"{place}scale1": (self.width,), f"{place}scale2": (self.width,)}
        return found


@dataclasses.dataclass(frozen=True)
class Dense:
    """A layer behind the pooling.

    Attributes:
        inputs: width before it.
        outputs: width after it.
        has_bias: whether it has one.
        activation: a name in `graph.ACTIVATIONS`.
    """

    inputs: int
    outputs: int
    has_bias: bool
    activation: str = "identity"


def _layer_shapes(layers: tuple[Dense, ...]) -> Shapes:
    found: Shapes = {}
    for number, layer in enumerate(layers):
        found[f"layers.{number}.kernel"] = (layer.inputs, layer.outputs)
        if layer.has_bias:
            found[f"layers.{number}.bias"] = (layer.outputs,)
    return found


@dataclasses.dataclass(frozen=True)
class ImageForm:
    """The form of an image tower, a Vision Transformer.

    Attributes:
        blocks: its blocks.
        size: side of the image, in pixels.
        patch: side of a patch.
        mean: of each channel, subtracted from pixels of 0 to 1.
        std: of each channel, which they are then divided by.
        registers: tokens beside the class token that are dropped at the end.
        has_class: whether there is a class token, whose output is the vector; otherwise a probe pools all tokens.
        has_positions: whether an array of positions is added.
        rotary: base of the rotary positions of DINOv3; 0 for none.
        patch_bias: whether the patches have a bias.
        first_norm: whether the tokens are normed before the blocks.
        dim: width of the joint space that vectors are projected to; 0 for no projection.
        is_mean: whether, without a class token, the vector is the mean of all tokens; there is no probe then.
        layers: behind the pooling.
    """

    blocks: Blocks
    size: int
    patch: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    registers: int = 0
    has_class: bool = True
    has_positions: bool = True
    rotary: float = 0.0
    patch_bias: bool = True
    first_norm: bool = False
    dim: int = 0
    is_mean: bool = False
    layers: tuple[Dense, ...] = ()

    @property
    def vector_width(self) -> int:
        """Width of the vectors."""
        return self.layers[-1].outputs if self.layers else self.dim or self.blocks.width

    @property
    def prefix(self) -> int:
        """Tokens before those of the patches."""
        return int(self.has_class) + self.registers

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.size // self.patch

    def shapes(self) -> Shapes:
        """Returns the shape of each array."""
        width, found = self.blocks.width, self.blocks.shapes()
        found["patch.kernel"] = (self.patch, self.patch, 3, width)
        if self.patch_bias:
            found["patch.bias"] = (width,)
        if self.has_class:
            found["class"] = (width,)
        if self.registers:
            found["registers"] = (self.registers, width)
        if self.has_positions:
            found["positions"] = (self.has_class + self.grid**2, width)
        if self.first_norm:
            found |= dict(self.blocks.norm("first_norm"))
        found |= dict(self.blocks.norm("last_norm"))
        if not self.has_class and not self.is_mean:
            found["pool.probe"] = (width,)
            pool = dataclasses.replace(self.blocks, gated=False, unbiased=())
            found |= dict(pool.attention("pool.")) | dict(pool.norm("pool.norm")) | dict(pool.mlp("pool."))
        if self.dim:
            found["projection.kernel"] = (width, self.dim)
        return found | _layer_shapes(self.layers)


@dataclasses.dataclass(frozen=True)
class TextForm:
    """The form of a text tower.

    Attributes:
        blocks: its blocks.
        tokens: size of the vocabulary.
        pool: `mean`, `first` or `max` of the tokens of the text; `last`, whatever is there; `end`, the first token of
            the id `end`.
        positions: rows of the positions that are added; 0 for none.
        first_position: the row of the first token.
        length: number of ids that are always given; 0 for any number, up to `positions`.
        end: id of the token that ends a text; -1 for the highest id in it, as old CLIP configs mean.
        is_masked: whether tokens do not see what is behind the end of the text.
        buckets: of relative positions (MPNet, T5); 0 for none.
        farthest: the distance from which relative positions are one bucket.
        sinusoids: whether positions are sines and cosines instead of an array.
        token_scale: what the embeddings of tokens are multiplied by.
        first_norm: whether the tokens are normed before the blocks.
        last_norm: whether they are normed after them.
        layers: behind the pooling.
        is_unit: whether vectors are scaled to unit length.
    """

    blocks: Blocks
    tokens: int
    pool: str
    positions: int = 0
    first_position: int = 0
    length: int = 0
    end: int = -1
    is_masked: bool = True
    buckets: int = 0
    farthest: int = 128
    sinusoids: bool = False
    token_scale: float = 1.0
    first_norm: bool = False
    last_norm: bool = True
    layers: tuple[Dense, ...] = ()
    is_unit: bool = False

    @property
    def vector_width(self) -> int:
        """Width of the vectors."""
        return self.layers[-1].outputs if self.layers else self.blocks.width

    def shapes(self) -> Shapes:
        """Returns the shape of each array."""
        width, found = self.blocks.width, self.blocks.shapes()
        found["tokens"] = (self.tokens, width)
        if self.positions and not self.sinusoids:
            found["positions"] = (self.positions, width)
        if self.buckets:
            found["relative"] = (self.buckets, self.blocks.heads)
        for name, is_there in (("first_norm", self.first_norm), ("last_norm", self.last_norm)):
            found |= dict(self.blocks.norm(name)) if is_there else {}
        return found | _layer_shapes(self.layers)


@dataclasses.dataclass(frozen=True)
class Tower:
    """A tower: its form, and float32 arrays with the names and shapes that `form.shapes()` states."""

    form: ImageForm | TextForm
    arrays: Mapping[str, np.ndarray]

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(array.size for array in self.arrays.values())


def check(tower: Tower, where: str, theirs: Mapping[str, str] | None = None, by: str = "its config") -> None:
    """Raises a `UserError` that names arrays that are missing, too many, or of another shape.

    Args:
        tower: to check.
        where: the checkpoint.
        theirs: the checkpoint's names of arrays, by ours; ours are shown where there is none.
        by: what the form was read off.
    """
    wanted, names = tower.form.shapes(), theirs or {}

    def listed(found: list[str]) -> str:
        # The checkpoint may have several of ours in one.
        shown = list(dict.fromkeys(names.get(name, name) for name in found))
        first = ", ".join(shown[:_MOST_NAMED])
        return f"{first} and {len(shown) - _MOST_NAMED} more" if len(shown) > _MOST_NAMED else first

    if missing := sorted(wanted.keys() - tower.arrays.keys()):
        raise UserError(f"{where}: has no array for {listed(missing)}, which {by} asks for; download the weights again")
    if extra := sorted(tower.arrays.keys() - wanted.keys()):
        raise UserError(
            f"{where}: has {listed(extra)}, which is not of the model that {by} describes; convert the model to a "
            "SavedModel or ONNX (docs/encoders.md)"
        )
    for name, shape in wanted.items():
        if tower.arrays[name].shape != shape:
            raise UserError(
                f"{where}: {names.get(name, name)} is {list(tower.arrays[name].shape)}, {by} says {list(shape)}"
            )
