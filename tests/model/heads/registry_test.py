import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.base import Train
from configs.schema import training
from model.data.batch import Batch
from model.heads import registry
from model.heads.attention.mml import Prototypes
from model.heads.guarded_names import Known
from model.heads.lda import Classes
from model.heads.linear import dropout, thin
from model.heads.pairs.drawing import Retrieved
from model.heads.texts.zero_shot import ClassNames
from model.heads.votes.knn_vote import Voters
from model.heads.votes.tip_adapter import Cache
from model.prepare.class_bank import Bank
from model.prepare.name_prior import NamePrior
from model.prepare.trust import Trust
from pipelines.errors import UserError
from tests import slow
from tests.model.applied import apply, first

# Values start at nothing, for which nothing is prepared.
_TRAIN = Train(attention_dim=8, value_dim=256, value_scale=0.0, neighbor_dropout=0.0)


def _batch(head="mam", b=4, k=6, d=16, seed=0):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    values = {"text": normal(b, k, 12), "image": normal(b, k, 10)}
    bank = Bank(normal(7, 5, 12), jnp.asarray(rng.random((7, 5)) < 0.8))
    batch = Batch(normal(b, d), normal(b, k, d), values, normal(b, k), jnp.ones((b, k), bool), offsets=normal(b))
    known = NamePrior(normal(7, 12), normal(d + 1, d), normal(7, d))
    names = ClassNames(normal(7, d))
    cache = Cache(names.vectors, normal(9, d), jnp.arange(9) % 7, jnp.full(7, 9 / 7))
    prepared = {"vl_ltr": bank, "mam_names": known, "zero_shot": names, "tip_adapter": cache, "tip_adapter_f": cache}
    prepared["lda"] = Classes(normal(d), normal(d, d), jnp.ones(d), normal(7, d), jnp.arange(1.0, 8))
    prepared["knn_vote"] = Voters(known.names, jnp.zeros(9, int))
    doubt = jnp.asarray(rng.random(7), jnp.float32)
    prepared["guarded"] = Trust(
        known.names, normal(d + 1, 7), normal(d + 1, 7), doubt, jnp.asarray(0.5), jnp.asarray(9.0)
    )
    prepared["guarded_names"] = Known(**(known._asdict() | prepared["guarded"]._asdict()))
    prepared["mml"] = Prototypes(normal(7, d), normal(7, d))
    prepared["real_linear"] = prepared["swat"] = Retrieved(
        normal(9, d), jnp.arange(7), jnp.ones(7, int), jnp.ones(7, int), normal(d, 7), jnp.ones(())
    )
    # Texts in the space of the keys.
    batch = batch._replace(values={"text": normal(b, k, d)}) if head == "mml" else batch
    return batch._replace(prepared=prepared.get(head))


def test_mlp_has_the_parameters_of_mam():
    batch = _batch()

    def count(name, **settings):
        head = registry.get(name).build(dataclasses.replace(_TRAIN, **settings), 7, batch)
        return registry.count_parameters(head, batch)

    counts = {name: count(name) for name in ("linear", "mlp", "mean_knn", "mam")}
    assert abs(counts["mlp"] - counts["mam"]) <= batch.queries.shape[-1] + 1
    assert counts["linear"] < counts["mean_knn"] < counts["mam"]
    # Where values start changes no shape, and nothing need be prepared to count.
    assert count("mlp", value_scale=1.0) == counts["mlp"]


def test_the_config_knows_the_same_heads():
    assert tuple(registry.HEADS) == training.HEADS
    assert {name for name, head in registry.HEADS.items() if head.needs_text} == set(training.TEXT_HEADS)
    assert all(head.name == name for name, head in registry.HEADS.items())


def test_an_unknown_head_is_refused():
    with pytest.raises(UserError, match="no head 'maam'; did you mean 'mam'"):
        registry.get("maam").build(Train(), 7, _batch())


# Heads whose first logits are not those of a linear classifier.
_OTHERS = (
    *(
        "mam_names",
        "guarded",
        "guarded_names",
        "vl_ltr",
        "zero_shot",
        "lda",
        "knn_vote",
        "tip_adapter",
        "tip_adapter_f",
        "mml",
    ),
    *("real_linear", "swat"),
)


@pytest.mark.parametrize("name", [name for name in registry.HEADS if name not in _OTHERS])
def test_every_head_of_one_branch_starts_at_the_linear_classifier(name):
    batch = _batch(name)
    head = registry.get(name).build(_TRAIN, 7, batch)
    params = first(head, batch)
    logits = apply(head, params, batch).logits
    classifier = params.get("classifier") or params["Linear_0"]["classifier"]
    z = np.asarray(batch.queries, np.float64)
    z = (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(logits, z @ np.asarray(classifier["kernel"]) + classifier["bias"], rtol=1e-4, atol=1e-5)


def test_only_retrieval_heads_read_the_memory():
    for name in registry.HEADS:
        batch = _batch(name)
        head = registry.get(name).build(_TRAIN, 7, batch)
        shapes = jax.eval_shape(lambda h=head, b=batch: registry.init(h, b, 0))
        rng = np.random.default_rng(1)
        params = jax.tree.map(lambda s, rng=rng: jnp.asarray(rng.normal(size=s.shape), jnp.float32), shapes)
        logits, features, weights, _ = apply(head, params, batch)
        moved = batch._replace(values=jax.tree.map(lambda v: v * jnp.arange(v.shape[1])[:, None], batch.values))
        other = apply(head, params, moved).logits
        assert (not np.allclose(logits, other)) == registry.HEADS[name].needs_neighbors
        assert features.shape == (4, 16)
        assert weights.shape == ((4, 6) if registry.HEADS[name].needs_neighbors else (4, 0))


def test_dropout_keeps_the_mean_and_drops_its_share():
    x = jnp.ones((200, 200))
    dropped = dropout(x, 0.25, jax.random.key(0))
    assert abs(float((dropped == 0).mean()) - 0.25) < 0.01
    assert abs(float(dropped.mean()) - 1) < 0.02
    np.testing.assert_array_equal(dropout(x, 0.25, None), x)


def test_neighbour_dropout_leaves_out_its_share_while_training_only():
    batch = _batch(b=200, k=50)
    head = registry.get("mean_knn").build(dataclasses.replace(_TRAIN, neighbor_dropout=0.25), 7, batch)
    params = first(head, batch)
    weights = apply(head, params, batch, jax.random.key(0)).weights
    assert abs(float((weights == 0).mean()) - 0.25) < 0.02
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    weights = apply(head, params, batch).weights
    np.testing.assert_allclose(weights, 1 / 50, rtol=1e-6)


def test_random_k_keeps_the_first_of_each_list_as_many_as_it_draws():
    batch = _batch(b=3000, k=6)
    mask = np.asarray(thin(batch, 0.0, True, jax.random.key(0)).mask)
    lengths = mask.sum(-1)
    np.testing.assert_array_equal(mask, np.arange(6) < lengths[:, None])
    np.testing.assert_allclose(np.bincount(lengths, minlength=7)[1:] / 3000, 1 / 6, atol=0.03)
    assert thin(batch, 0.5, True, None) is batch


# Training does not let `guarded` read neighbours.
@pytest.mark.parametrize(
    "name",
    slow.after(2, [name for name, head in registry.HEADS.items() if head.needs_neighbors and name != "guarded"]),
)
def test_random_k_acts_while_training_only(name):
    batch = _batch(name, b=50)
    head = registry.get(name).build(dataclasses.replace(_TRAIN, random_k=True), 7, batch)
    params = first(head, batch)
    kept = thin(batch, 0.0, True, jax.random.key(3)).mask
    weights = apply(head, params, batch, jax.random.key(3)).weights
    np.testing.assert_array_equal(weights > 0, kept)
    assert (apply(head, params, batch).weights > 0).all()
