"""The Vision Transformer that fine-tuning trains: the Flax module and its input.

The graph is that of Dosovitskiy et al. 2021 and "How to train your ViT" (Steiner et al. 2022), with the head of SigLIP
(Zhai et al. 2023), which pools by attention: what `pipelines.encoders.towers.graph` computes of the same checkpoint
when it is embedded. It scales pixels, and can be adapted to other image sizes than a checkpoint's. The parameters have
the names of big_vision's `models/vit.py`. `query_encoder` reads checkpoints; callers decode and crop images, scale
vectors to unit length, and train.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

Params = dict[str, Any]
# The name of an adapter in the parameters of its block.
ADAPTER = "adapter"


@dataclasses.dataclass(frozen=True)
class VitConfig:
    """The shape of a Vision Transformer.

    Attributes:
        patch: side of a patch, in pixels.
        width: of the tokens and of the embedding.
        depth: number of encoder blocks.
        heads: attention heads, of the blocks and of the pooling head.
        mlp_dim: hidden width of the MLPs.
        grid: patches along each side of the image, a square.
        pool: source of the embedding: `cls` (the class token), `map` (attention pooling by a learned probe) or `gap`
            (the mean of the tokens).
        pre_logits: whether a dense layer with tanh follows the pooling.
    """

    patch: int
    width: int
    depth: int
    heads: int
    mlp_dim: int
    grid: int
    pool: str
    pre_logits: bool


class MlpBlock(nn.Module):
    """Dense, GELU (tanh form), dense: `[B, N, D]` to `[B, N, D]`."""

    mlp_dim: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the block."""
        inits = {"kernel_init": nn.initializers.xavier_uniform(), "bias_init": nn.initializers.normal(1e-6)}
        width = x.shape[-1]
        x = nn.Dense(self.mlp_dim, dtype=self.dtype, name="Dense_0", **inits)(x)
        return nn.Dense(width, dtype=self.dtype, name="Dense_1", **inits)(nn.gelu(x, approximate=True))


class Adapter(nn.Module):
    """The bottleneck of AdaptFormer (Chen et al., NeurIPS 2022) beside an MLP, as LIFT has it: `[B, N, D]` to the same.

    Its last layer starts at zero, so that a model with adapters starts as the one without.

    Attributes:
        dim: width of the bottleneck.
        dtype: of the matrix products.
    """

    dim: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the adapter."""
        y = nn.Dense(self.dim, dtype=self.dtype, name="down")(_layer_norm("norm")(x))
        y = nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=nn.initializers.zeros, name="up")(nn.relu(y))
        return self.param("scale", nn.initializers.ones, ()) * y


def _attention(config: VitConfig, dtype: Any) -> nn.Module:
    return nn.MultiHeadDotProductAttention(
        num_heads=config.heads,
        dtype=dtype,
        kernel_init=nn.initializers.xavier_uniform(),
        deterministic=True,
        force_fp32_for_softmax=True,
        name="MultiHeadDotProductAttention_0",
    )


def _layer_norm(name: str) -> nn.Module:
    return nn.LayerNorm(epsilon=1e-6, dtype=jnp.float32, name=name)


def _drop_branch(x: jax.Array, rate: float, rng: jax.Array | None) -> jax.Array:
    """Drops the residual branch `[B, N, D]` of a fraction `rate` of the images, and scales up the others."""
    if rng is None or not rate:
        return x
    kept = jax.random.bernoulli(rng, 1 - rate, (len(x), 1, 1))
    return jnp.where(kept, x / (1 - rate), 0)


class EncoderBlock(nn.Module):
    """A pre-norm transformer block: float32 `[B, N, D]` to float32 `[B, N, D]`.

    Attributes:
        config: of the model.
        dtype: of the matrix products.
        drop_rate: fraction of the images whose residual branches are dropped in training.
        adapter_dim: width of the adapter beside the MLP; 0 for none.
    """

    config: VitConfig
    dtype: Any
    drop_rate: float = 0.0
    adapter_dim: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        """Applies the block; training passes a key."""
        rngs = (None, None) if rng is None else jax.random.split(rng)
        y = _layer_norm("LayerNorm_0")(x)
        x = x + _drop_branch(_attention(self.config, self.dtype)(y, y), self.drop_rate, rngs[0])
        y = _layer_norm("LayerNorm_1")(x)
        y = MlpBlock(self.config.mlp_dim, self.dtype, name="MlpBlock_0")(y)
        if self.adapter_dim:
            y = y + Adapter(self.adapter_dim, self.dtype, name=ADAPTER)(x)
        return x + _drop_branch(y, self.drop_rate, rngs[1])


class Encoder(nn.Module):
    """All blocks and the last norm: float32 `[B, N, D]` to float32 `[B, N, D]`; attributes as those of `Vit`."""

    config: VitConfig
    dtype: Any
    stochastic_depth: float = 0.0
    remat: bool = False
    adapter_dim: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        """Applies the blocks; training passes a key."""
        block = nn.remat(EncoderBlock) if self.remat else EncoderBlock
        for index in range(self.config.depth):
            rate = self.stochastic_depth * index / max(self.config.depth - 1, 1)
            own = None if rng is None else jax.random.fold_in(rng, index)
            x = block(self.config, self.dtype, rate, self.adapter_dim, name=f"encoderblock_{index}")(x, own)
        return _layer_norm("encoder_norm")(x)


class MapHead(nn.Module):
    """Pools by attention of one learned probe, always in float32: `[B, N, D]` to `[B, D]`."""

    config: VitConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the head."""
        probe = self.param("probe", nn.initializers.xavier_uniform(), (1, 1, self.config.width))
        x = _attention(self.config, jnp.float32)(jnp.tile(probe, (len(x), 1, 1)), x)
        y = _layer_norm("LayerNorm_0")(x)
        return (x + MlpBlock(self.config.mlp_dim, jnp.float32, name="MlpBlock_0")(y))[:, 0]


class Vit(nn.Module):
    """A Vision Transformer without classifier; the graph of big_vision's `models/vit.py`, without dropout.

    Attributes:
        config: its shape.
        dtype: of the matrix products; parameters, residuals, norms, softmax and the pooling head stay float32.
        stochastic_depth: fraction of the images whose residual branches the last block drops in training; it rises
            from 0 in the first (Huang et al. 2016; Steiner et al. 2022, section 3.3).
        remat: whether the activations within a block are recomputed for its gradients instead of kept, which takes a
            third more time and a fraction of the memory.
        adapter_dim: width of an adapter in each block, which `with_adapters` adds to the parameters; 0 for none.
    """

    config: VitConfig
    dtype: Any = jnp.float32
    stochastic_depth: float = 0.0
    remat: bool = False
    adapter_dim: int = 0

    @nn.compact
    def __call__(self, images: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        """Embeds images.

        Args:
            images: float32 `[B, S, S, 3]`, RGB from -1 to 1. Pixels beyond the last whole patch are not used.
            rng: key that chooses the dropped branches in a training step; None elsewhere.

        Returns:
            float32 `[B, width]`, the input of a classifier: after the last norm, the pooling and, if there is one, the
            `pre_logits` layer. Not of unit length.

        Raises:
            ValueError: if the images do not make the grid of the position embedding.
        """
        c = self.config
        x = nn.Conv(
            c.width, (c.patch, c.patch), (c.patch, c.patch), padding="VALID", dtype=self.dtype, name="embedding"
        )(images)
        if x.shape[1:3] != (c.grid, c.grid):
            raise ValueError(
                f"images of {images.shape[1:3]} make {x.shape[1:3]} patches, the model has {c.grid} a side"
            )
        x = x.reshape(len(x), c.grid**2, c.width)
        x = x + self.param("pos_embedding", nn.initializers.normal(c.width**-0.5), (1, c.grid**2, c.width))
        if c.pool == "cls":
            cls = self.param("cls", nn.initializers.zeros, (1, 1, c.width))
            x = jnp.concatenate([jnp.tile(cls, (len(x), 1, 1)), x], axis=1)
        x = Encoder(c, self.dtype, self.stochastic_depth, self.remat, self.adapter_dim, name="Transformer")(x, rng)
        match c.pool:
            case "cls":
                x = x[:, 0]
            case "map":
                x = MapHead(c, name="MAPHead_0")(x)
            case "gap":
                x = x.mean(axis=1)
            case _:
                raise ValueError(f"pool is {c.pool!r}, must be cls, map or gap")
        return nn.tanh(nn.Dense(c.width, name="pre_logits")(x)) if c.pre_logits else x


def scale_pixels(images: jax.Array) -> jax.Array:
    """Returns uint8 pixels as float32 from -1 to 1."""
    return (images.astype(jnp.float32) - 127.5) / 127.5


def resize_grid(vit: Vit, params: Params, grid: int) -> tuple[Vit, Params]:
    """Returns a model for `grid` patches a side: position embeddings are interpolated, all else is unchanged.

    Bilinear, as big_vision does (Dosovitskiy et al. 2021, section 3.2).
    """
    own, width = vit.config.grid, vit.config.width
    if grid == own:
        return vit, params
    positions = jnp.reshape(params["pos_embedding"], (own, own, width))
    resized = jax.image.resize(positions, (grid, grid, width), "bilinear", antialias=False)
    config = dataclasses.replace(vit.config, grid=grid)
    return vit.copy(config=config), {**params, "pos_embedding": np.asarray(resized).reshape(1, grid**2, width)}


def with_adapters(vit: Vit, params: Params, seed: int) -> Params:
    """Returns the parameters with those of new adapters, or as they are if the model has none."""
    if not vit.adapter_dim:
        return params
    adapter, token = Adapter(vit.adapter_dim, vit.dtype), jnp.zeros((1, 1, vit.config.width))
    blocks = dict(params["Transformer"])
    for index in range(vit.config.depth):
        key = jax.random.fold_in(jax.random.key(seed), index)
        name = f"encoderblock_{index}"
        blocks[name] = {**blocks[name], ADAPTER: adapter.init(key, token)["params"]}
    return {**params, "Transformer": blocks}


def is_of_adapter(path: Any) -> bool:
    """Whether a parameter is one of an adapter, by its path in the tree."""
    return any(getattr(key, "key", None) == ADAPTER for key in path)
