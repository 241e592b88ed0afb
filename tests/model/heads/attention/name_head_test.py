"""The head of class names and its prior against independent float64 versions, made neighbour by neighbour."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.base import Names, Train
from model.data.batch import Batch
from model.data.datasets import Split, Task
from model.heads import registry
from model.prepare import name_prior
from model.prepare.name_prior import NamePrior
from model.training import preparation
from pipelines.errors import UserError
from tests.model.applied import apply, first

_B, _K, _D, _V, _C, _M = 5, 6, 8, 7, 4, 40
_NAMES = Names(similarity_scale=3.0, temperature=6.0, threshold=0.2, prior_scale=2.0, vote_weight=1.5, smoothing=0.05)


def _standardize(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def _posterior(text: np.ndarray, names: np.ndarray, temperature: float, threshold: float) -> np.ndarray:
    """Shares of the classes by one caption, through correlations and a class that stands for none."""
    cosines = [_standardize(text) @ _standardize(name) / len(text) for name in names]
    terms = np.exp([temperature * cosine for cosine in cosines] + [temperature * threshold])
    return (terms / terms.sum())[:-1]


def _case(seed: int = 0):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    mask = np.ones((_B, _K), bool)
    mask[1, 2:] = False
    mask[2] = False
    values = {"text": jnp.asarray(_standardize(rng.normal(size=(_B, _K, _V))), jnp.float32)}
    known = NamePrior(normal(_C, _V), normal(_D + 1, _D), normal(_C, _D))
    scores = jnp.asarray(rng.uniform(size=(_B, _K)), jnp.float32)
    batch = Batch(normal(_B, _D), normal(_B, _K, _D), values, scores, jnp.asarray(mask), known)
    head = registry.get("mam_names").build(Train(names=_NAMES), _C, batch)
    return batch, head, first(head, batch)


def _expected(batch: Batch, params: dict) -> tuple[np.ndarray, np.ndarray]:
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    names, whitening, means = (np.asarray(part, np.float64) for part in batch.prepared)
    logits, weights = np.zeros((_B, _C)), np.zeros((_B, _K))
    for b in range(_B):
        y = np.append(_standardize(batch.queries[b]), 1) @ whitening
        near = np.flatnonzero(batch.mask[b])
        closeness = np.exp([_NAMES.similarity_scale * p["similarity"] * float(batch.scores[b, j]) for j in near])
        named = [
            _posterior(
                np.asarray(batch.values["text"][b, j]),
                names,
                _NAMES.temperature,
                _NAMES.threshold,
            )
            for j in near
        ]
        votes = np.full(_C, _NAMES.smoothing)
        for share, says in zip(closeness / closeness.sum(), named, strict=True):
            votes += share * says
        logits[b] = y @ p["classifier"]["kernel"] + p["classifier"]["bias"]
        # Of the squared distances, that to the mean of all is the same for every class.
        distances = [np.square(y - mean).sum() - np.square(y).sum() for mean in means]
        logits[b] -= _NAMES.prior_scale * p["prior"] * np.array(distances) / 2
        logits[b] += _NAMES.vote_weight * p["vote"] * np.log(votes)
        predicted = np.exp(logits[b] - logits[b].max())
        predicted /= predicted.sum()
        for j, share, says in zip(near, closeness, named, strict=True):
            weights[b, j] = share * (says @ predicted)
        if len(near):
            weights[b] /= weights[b].sum()
    return logits, weights


def test_the_head_is_what_numpy_says():
    batch, head, params = _case()
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda p: p + jnp.asarray(rng.uniform(-0.3, 0.3, p.shape), jnp.float32), params)
    output = apply(head, params, batch)
    logits, weights = _expected(batch, params)
    np.testing.assert_allclose(output.logits, logits, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(output.weights, weights, rtol=2e-5, atol=1e-6)
    whitened = np.column_stack([_standardize(batch.queries), np.ones(_B)]) @ np.asarray(batch.prepared.whitening)
    np.testing.assert_allclose(output.features, whitened, rtol=1e-4, atol=1e-5)


def test_it_starts_where_no_label_was_used():
    batch, head, params = _case()
    assert not params["classifier"]["kernel"].any()
    assert all(params[name] == 1 for name in ("similarity", "prior", "vote"))


def test_gradients_are_those_of_differences():
    batch, head, params = _case()

    def loss(scalars):
        return jnp.square(apply(head, params | scalars, batch).logits).mean()

    scalars = {name: params[name] for name in ("similarity", "prior", "vote")}
    gradients = jax.jit(jax.grad(loss))(scalars)
    for name, value in scalars.items():
        ends = [float(np.square(_expected(batch, params | {name: value + step})[0]).mean()) for step in (-1e-4, 1e-4)]
        np.testing.assert_allclose(gradients[name], (ends[1] - ends[0]) / 2e-4, rtol=2e-3, atol=1e-4)


def test_a_list_in_another_order_says_the_same():
    batch, head, params = _case()
    order = np.array([3, 0, 5, 1, 4, 2])
    moved = batch._replace(
        keys=batch.keys[:, order],
        values={"text": batch.values["text"][:, order]},
        scores=batch.scores[:, order],
        mask=batch.mask[:, order],
    )
    one, other = (apply(head, params, b) for b in (batch, moved))
    np.testing.assert_allclose(other.logits, one.logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(other.weights, one.weights[:, order], rtol=1e-5, atol=1e-6)


@settings(deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=9), st.floats(0.1, 200), st.floats(0.01, 1))
def test_shares_of_classes_and_of_none_make_one(cosines, temperature, threshold):
    shares = np.asarray(name_prior.posterior(jnp.asarray(cosines, jnp.float32), temperature, threshold), np.float64)
    terms = np.exp(temperature * (np.float32(cosines).astype(np.float64) - threshold))
    np.testing.assert_allclose(shares, terms / (1 + terms.sum()), rtol=2e-4, atol=1e-6)
    assert shares.sum() <= 1 + 1e-5


def test_the_prior_is_discriminant_analysis_with_what_captions_say(monkeypatch):
    rng = np.random.default_rng(0)
    keys, texts, names = (rng.normal(size=shape).astype(np.float32) for shape in ((_M, _D), (_M, _V), (_C, _V)))
    monkeypatch.setattr(name_prior, "BLOCK_ROWS", 16)
    whitening, means = name_prior.fit(keys, texts, names, _NAMES)
    x = _standardize(keys)
    shares = np.stack([_posterior(text, names, _NAMES.temperature, _NAMES.threshold) for text in texts])
    covariance = np.cov(x.T, bias=True)
    covariance += _NAMES.ridge * np.trace(covariance) / _D * np.eye(_D)
    average = np.stack(
        [(share[:, None] * (x - x.mean(0))).sum(0) / (share.sum() + name_prior.ROWS_OF_NONE) for share in shares.T]
    )
    query = _standardize(rng.normal(size=_D))
    y = np.append(query, 1) @ whitening
    # Distances are those of Mahalanobis, however the space is turned.
    for mean, own in zip(means, average, strict=True):
        apart = query - x.mean(0) - own
        np.testing.assert_allclose(np.square(y - mean).sum(), apart @ np.linalg.solve(covariance, apart), rtol=1e-3)
    whitened = np.column_stack([x, np.ones(_M)]) @ whitening
    np.testing.assert_allclose(whitened.mean(0), 0, atol=1e-4)


def test_the_mean_of_a_class_that_no_caption_names_is_that_of_all():
    rng = np.random.default_rng(0)
    keys = rng.normal(size=(_M, _D)).astype(np.float32)
    texts = np.tile(np.float32([1, -1, 0, 0]), (_M, 1))
    names = np.float32([[0, 0, 1, -1], [1, -1, 0, 0]])
    settings = dataclasses.replace(_NAMES, temperature=200.0, threshold=0.5)
    means = name_prior.fit(keys, texts, names, settings)[1]
    np.testing.assert_allclose(means, 0, atol=1e-4)


def _task(name_vectors: dict[str, np.ndarray]) -> Task:
    rng = np.random.default_rng(0)
    neighbors = np.array([[0, 2, 5], [5, 7, 0]], np.int32)
    mask = np.array([[True, True, True], [True, True, False]])
    split = Split(
        np.arange(2),
        rng.normal(size=(2, _D)),
        np.array([0, 1], np.int32),
        neighbors,
        np.zeros((2, 3), np.float32),
        mask,
    )
    return Task(
        splits={"train": split},
        memory_ids=np.arange(9),
        keys=rng.normal(size=(9, _D)).astype(np.float32),
        values={"text": rng.normal(size=(9, _V)).astype(np.float32)},
        class_counts=np.array([1, 1]),
        class_names=["a", "b"],
        name_vectors=name_vectors,
        fingerprint="",
    )


def test_the_prior_reads_only_what_training_images_retrieved():
    names = np.random.default_rng(1).normal(size=(2, _V)).astype(np.float32)
    task = _task({"text": names})
    found = preparation.prepare(task, Train(heads=("mam_names",))).prepared["mam_names"]
    rows = [0, 2, 5, 7]
    whitening, means = name_prior.fit(task.keys[rows], task.values["text"][rows], names, Names())
    np.testing.assert_array_equal(found.whitening, whitening)
    np.testing.assert_array_equal(found.means, means)
    keys = task.keys.copy()
    keys[[1, 3, 4, 6, 8]] += 1
    same = preparation.prepare(dataclasses.replace(task, keys=keys), Train(heads=("mam_names",)))
    np.testing.assert_array_equal(same.prepared["mam_names"].means, means)
    assert not preparation.prepare(task, Train(heads=("linear",))).prepared


def test_missing_names_are_worded():
    with pytest.raises(UserError, match="mam_names reads the names .* none are embedded; set --config.class_names and"):
        preparation.prepare(_task({}), Train(heads=("linear", "mam_names")))
