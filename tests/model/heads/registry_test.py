import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.base import Train
from model.data.batch import Batch
from model.heads import registry
from model.heads.linear import dropout, thin

_RETRIEVAL = ("mean_knn", "mam", "mam_names", "rac")


def _batch(b=4, k=6, d=16, seed=0):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    values = {"text": normal(b, k, 12), "image": normal(b, k, 10)}
    classes = {"bank_text": normal(7, 5, 12), "bank_mask": jnp.asarray(rng.random((7, 5)) < 0.8)}
    batch = Batch(normal(b, d), normal(b, k, d), values, normal(b, k), jnp.ones((b, k), bool), classes)
    names = {"names_text": normal(7, 12), "name_whitening": normal(d + 1, d), "name_means": normal(7, d)}
    return batch._replace(classes=classes | names)


def test_mlp_has_the_parameters_of_mam():
    train = Train(attention_dim=8)
    batch = _batch()
    counts = {name: registry.count_parameters(registry.build(name, train, 7, batch), batch) for name in registry.HEADS}
    assert abs(counts["mlp"] - counts["mam"]) <= batch.queries.shape[-1] + 1
    assert counts["linear"] < counts["mean_knn"] < counts["mam"]


@pytest.mark.parametrize("name", [name for name in registry.HEADS if name not in ("mam_names", "vl_ltr")])
def test_every_head_of_one_branch_starts_at_the_linear_classifier(name):
    batch = _batch()
    head = registry.build(name, Train(attention_dim=8), 7, batch)
    params = registry.init(head, batch, 0)
    logits = head.apply({"params": params}, batch, 0.0, None).logits
    classifier = params.get("classifier") or params["Linear_0"]["classifier"]
    z = np.asarray(batch.queries, np.float64)
    z = (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(logits, z @ np.asarray(classifier["kernel"]) + classifier["bias"], rtol=1e-4, atol=1e-5)


def test_only_retrieval_heads_read_the_memory():
    batch = _batch()
    for name in registry.HEADS:
        head = registry.build(name, Train(attention_dim=8), 7, batch)
        shapes = jax.eval_shape(lambda h=head: registry.init(h, batch, 0))
        rng = np.random.default_rng(1)
        params = jax.tree.map(lambda s, rng=rng: jnp.asarray(rng.normal(size=s.shape), jnp.float32), shapes)
        logits, features, weights, _ = head.apply({"params": params}, batch, 0.0, None)
        moved = batch._replace(values=jax.tree.map(lambda v: v * jnp.arange(v.shape[1])[:, None], batch.values))
        other = head.apply({"params": params}, moved, 0.0, None).logits
        assert (not np.allclose(logits, other)) == (name in _RETRIEVAL)
        assert features.shape == (4, 16)
        assert weights.shape == ((4, 6) if name in _RETRIEVAL else (4, 0))


def test_dropout_keeps_the_mean_and_drops_its_share():
    x = jnp.ones((200, 200))
    dropped = dropout(x, 0.25, jax.random.key(0))
    assert abs(float((dropped == 0).mean()) - 0.25) < 0.01
    assert abs(float(dropped.mean()) - 1) < 0.02
    np.testing.assert_array_equal(dropout(x, 0.25, None), x)


def test_neighbour_dropout_leaves_out_its_share_while_training_only():
    batch = _batch(b=200, k=50)
    head = registry.build("mean_knn", Train(neighbor_dropout=0.25), 7, batch)
    params = registry.init(head, batch, 0)
    weights = head.apply({"params": params}, batch, 0.0, jax.random.key(0)).weights
    assert abs(float((weights == 0).mean()) - 0.25) < 0.02
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    weights = head.apply({"params": params}, batch, 0.0, None).weights
    np.testing.assert_allclose(weights, 1 / 50, rtol=1e-6)


def test_random_k_keeps_the_first_of_each_list_as_many_as_it_draws():
    batch = _batch(b=3000, k=6)
    mask = np.asarray(thin(batch, 0.0, True, jax.random.key(0)).mask)
    lengths = mask.sum(-1)
    np.testing.assert_array_equal(mask, np.arange(6) < lengths[:, None])
    np.testing.assert_allclose(np.bincount(lengths, minlength=7)[1:] / 3000, 1 / 6, atol=0.03)
    assert thin(batch, 0.5, True, None) is batch


@pytest.mark.parametrize("name", _RETRIEVAL)
def test_random_k_acts_while_training_only(name):
    batch = _batch(b=50)
    head = registry.build(name, Train(random_k=True, attention_dim=8), 7, batch)
    params = registry.init(head, batch, 0)
    kept = thin(batch, 0.0, True, jax.random.key(3)).mask
    weights = head.apply({"params": params}, batch, 0.0, jax.random.key(3)).weights
    np.testing.assert_array_equal(weights > 0, kept)
    assert (head.apply({"params": params}, batch, 0.0, None).weights > 0).all()
