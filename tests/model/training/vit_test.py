"""The ViT that is fine-tuned against a forward pass in NumPy of the same file."""

import dataclasses

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.training import query_encoder, vit
from tests.pipelines import vit_files

SO400M = vit.VitConfig(14, 1152, 27, 16, 4304, 27, "map", False)


def _images(count, size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def _embed(images, model, params):
    """Embeds uint8 images by a compiled module."""
    embed = jax.jit(lambda params, images: model.apply({"params": params}, vit.scale_pixels(images)))
    return np.asarray(embed(params, images))


@pytest.fixture(params=vit_files.LAYOUTS)
def layout(request):
    return vit_files.LAYOUTS[request.param]


def test_every_layout_gives_the_reference(layout, tmp_path):
    file = vit_files.write(tmp_path / "x.npz", layout, vit_files.TINY)
    images = _images(3, 14)
    expected = vit_files.reference(file, layout, images)
    np.testing.assert_allclose(
        _embed(images, *query_encoder.read(str(tmp_path / "x.npz"))), expected, rtol=1e-4, atol=1e-5
    )
    assert expected.std(0).min() > 1e-3


def test_tokens_as_faint_as_the_epsilon_of_the_norm_give_the_reference(tmp_path):
    layout = vit_files.LAYOUTS["big_vision gap"]
    file = vit_files.arrays(layout, vit_files.TINY)
    for name in ("embedding/kernel", "embedding/bias", "pos_embedding"):
        file[name] *= np.float32(1e-3)
    np.savez(tmp_path / "x.npz", **file)
    images = _images(2, 12)
    np.testing.assert_allclose(
        _embed(images, *query_encoder.read(str(tmp_path / "x.npz"))),
        vit_files.reference(file, layout, images),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("name", "pool", "pre_logits"),
    [
        ("augreg", "cls", False),
        ("augreg pre_logits", "cls", True),
        ("big_vision gap", "gap", False),
        ("big_vision tok", "cls", False),
        ("siglip", "map", False),
        ("siglip 2", "map", False),
    ],
)
def test_the_config_is_read_off_the_shapes(name, pool, pre_logits, tmp_path):
    vit_files.write(tmp_path / "x.npz", vit_files.LAYOUTS[name], vit_files.TINY)
    model, _ = query_encoder.read(str(tmp_path / "x.npz"))
    assert model.config == vit.VitConfig(4, 24, 3, 3, 40, 3, pool, pre_logits)


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        # The checkpoint's own position of the class token is added to the token.
        (vit.VitConfig(16, 768, 12, 12, 3072, 14, "cls", False), 85_798_656 - 768),
        (vit.VitConfig(16, 1024, 24, 16, 4096, 14, "cls", False), 303_301_632 - 1024),
        (SO400M, 428_225_600),
    ],
    ids=["B/16", "L/16", "So400m/14"],
)
def test_the_published_models_have_the_published_numbers_of_parameters(config, parameters):
    images = jnp.zeros((1, *[config.grid * config.patch] * 2, 3))
    leaves = jax.tree.leaves(jax.eval_shape(vit.Vit(config).init, jax.random.key(0), images))
    assert sum(leaf.size for leaf in leaves) == parameters


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape", "size"),
    [
        ("augreg", vit_files.Shape(16, 768, 12, 12, 3072, 14), 224),
        # The weights in full, but fewer patches: with 14 x 14 and 27 x 27 these two take minutes.
        ("augreg", vit_files.Shape(16, 1024, 24, 16, 4096, 4), 64),
        ("siglip", vit_files.Shape(14, 1152, 27, 16, 4304, 4), 62),
    ],
    ids=["B/16", "L/16", "So400m/14"],
)
def test_the_published_widths_and_depths_give_the_reference(name, shape, size, tmp_path):
    layout = vit_files.LAYOUTS[name].of_depth(shape.depth)
    file = vit_files.write(tmp_path / "x.npz", layout, shape)
    images = _images(1, size)
    expected = vit_files.reference(file, layout, images, np.float32)
    del file
    vectors = _embed(images, *query_encoder.read(str(tmp_path / "x.npz")))
    np.testing.assert_allclose(vectors, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    (tmp_path / "x.npz").unlink()


def _load(layout, path):
    return vit_files.write(path, layout, vit_files.TINY), *query_encoder.read(str(path))


@pytest.mark.parametrize("name", ["augreg pre_logits", "big_vision gap", "siglip"])
def test_gradients_are_those_of_the_reference(name, tmp_path):
    layout = vit_files.LAYOUTS[name]
    file, model, params = _load(layout, tmp_path / "x.npz")
    images, rng = _images(2, 12), np.random.default_rng(1)
    weights = rng.normal(size=(2, model.config.width))

    def loss(params):
        return (model.apply({"params": params}, (images.astype(np.float32) - 127.5) / 127.5) * weights).sum()

    gradients = flax.traverse_util.flatten_dict(jax.jit(jax.grad(loss))(params), sep="/")
    assert len(gradients) == len(jax.tree.leaves(params))
    for key, gradient in gradients.items():
        assert np.isfinite(gradient).all(), key
        # A bias of the keys adds the same to all scores of a query, which the softmax does not see.
        assert (np.abs(gradient).max() < 1e-4) == key.endswith("key/bias"), key

    kernel = f"{layout.root}embedding/kernel"
    direction = rng.normal(size=file[kernel].shape)
    step = 1e-5
    up, down = (
        (vit_files.reference({**file, kernel: file[kernel] + sign * step * direction}, layout, images) * weights).sum()
        for sign in (1, -1)
    )
    np.testing.assert_allclose((gradients["embedding/kernel"] * direction).sum(), (up - down) / (2 * step), rtol=1e-3)


def test_a_fresh_model_has_the_tree_of_a_loaded_one(layout, tmp_path):
    _, model, params = _load(layout, tmp_path / "x.npz")
    fresh = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 12, 12, 3)))["params"]
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, params)


def test_bfloat16_comes_close_and_stays_float32_outside(tmp_path):
    _, model, params = _load(vit_files.LAYOUTS["siglip"], tmp_path / "x.npz")
    coarse, _ = query_encoder.read(str(tmp_path / "x.npz"), jnp.bfloat16)
    images = _images(2, 12)
    fine = _embed(images, model, params)
    rough = _embed(images, coarse, params)
    assert rough.dtype == fine.dtype == np.float32
    assert 1e-5 < np.abs(rough - fine).max() < 0.1 * np.abs(fine).max()


def test_images_of_another_size_are_refused(tmp_path):
    _, model, params = _load(vit_files.LAYOUTS["augreg"], tmp_path / "x.npz")
    with pytest.raises(ValueError, match="make .4, 4. patches, the model has 3 a side"):
        model.apply({"params": params}, np.zeros((1, 16, 16, 3), np.float32))


@pytest.mark.slow
def test_blocks_that_are_computed_anew_give_the_same_gradients(tmp_path):
    _, model, params = _load(vit_files.LAYOUTS["augreg"], tmp_path / "x.npz")
    images = vit.scale_pixels(jnp.asarray(_images(2, 12)))

    def gradients(model):
        return jax.grad(lambda params: jnp.square(model.apply({"params": params}, images)).sum())(params)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        gradients(model),
        gradients(model.copy(remat=True)),
    )


@pytest.mark.slow
def test_stochastic_depth_leaves_out_branches_by_image_and_by_depth(tmp_path):
    block = vit.EncoderBlock(vit.VitConfig(4, 8, 3, 2, 8, 3, "cls", False), jnp.float32, 0.25)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 8)), jnp.float32)
    params = block.init(jax.random.key(0), x)
    many = jnp.tile(x, (2000, 1, 1))
    # Of one image the block gives what each of its two branches, left out or scaled up, leads to.
    found = np.asarray(block.apply(params, many, jax.random.key(1)))[:, 0]
    outcomes, counts = np.unique(found.round(4), axis=0, return_counts=True)
    assert len(outcomes) == 4
    np.testing.assert_allclose(sorted(counts / 2000), sorted([0.0625, 0.1875, 0.1875, 0.5625]), atol=0.04)
    untouched = np.abs(outcomes - np.asarray(x[0, 0])).max(1).argmin()
    assert abs(counts[untouched] / 2000 - 0.0625) < 0.02
    _, model, params = _load(vit_files.LAYOUTS["augreg"], tmp_path / "x.npz")
    images = vit.scale_pixels(jnp.asarray(_images(1, 12)))
    plain = model.apply({"params": params}, images)
    deep = model.copy(stochastic_depth=0.5)
    np.testing.assert_array_equal(deep.apply({"params": params}, images), plain)
    assert np.abs(deep.apply({"params": params}, images, jax.random.key(0)) - plain).max() > 1e-3
    # The first of the blocks always counts.
    first = model.clone(config=dataclasses.replace(model.config, depth=1), stochastic_depth=0.9)
    one = {**params, "Transformer": {k: v for k, v in params["Transformer"].items() if not k.endswith(("_1", "_2"))}}
    np.testing.assert_allclose(
        first.apply({"params": one}, images, jax.random.key(0)), first.apply({"params": one}, images), rtol=1e-6
    )


def test_an_adapter_is_what_numpy_says():
    rng = np.random.default_rng(0)
    x, shapes = rng.normal(size=(2, 5, 8)), {"down": (8, 3), "up": (3, 8)}
    params = {name: {"kernel": rng.normal(size=s), "bias": rng.normal(size=s[1])} for name, s in shapes.items()}
    params |= {"norm": {"scale": rng.normal(size=8), "bias": rng.normal(size=8)}, "scale": np.array(0.7)}
    apply = jax.jit(vit.Adapter(3, jnp.float32).apply)
    found = apply({"params": jax.tree.map(np.float32, params)}, np.float32(x))
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    y = y * params["norm"]["scale"] + params["norm"]["bias"]
    y = np.maximum(y @ params["down"]["kernel"] + params["down"]["bias"], 0)
    np.testing.assert_allclose(found, 0.7 * (y @ params["up"]["kernel"] + params["up"]["bias"]), rtol=1e-4, atol=1e-4)


def test_positions_are_interpolated_to_another_grid(tmp_path):
    _, model, params = _load(vit_files.LAYOUTS["augreg"], tmp_path / "x.npz")
    assert vit.resize_grid(model, params, 3) == (model, params)
    ramp = np.broadcast_to(np.arange(3.0, dtype=np.float32)[None, :, None], (3, 3, 24)).reshape(1, 9, 24)
    larger, resized = vit.resize_grid(model, {**params, "pos_embedding": ramp}, 6)
    assert larger.config.grid == 6
    rows = resized["pos_embedding"].reshape(6, 6, 24)
    # Centres of the six columns, on the scale of the three, held at the borders.
    np.testing.assert_allclose(rows[2, :, 5], [0, 0.25, 0.75, 1.25, 1.75, 2], atol=1e-6)
    assert _embed(np.zeros((1, 24, 24, 3), np.uint8), larger, resized).shape == (1, 24)
    constant = {**params, "pos_embedding": np.full((1, 9, 24), 0.5, np.float32)}
    np.testing.assert_allclose(vit.resize_grid(model, constant, 5)[1]["pos_embedding"], 0.5, rtol=1e-6)
