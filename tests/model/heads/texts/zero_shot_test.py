import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.base import Train
from model.data.batch import Batch, offset, standardize
from model.heads import registry
from model.heads.texts.zero_shot import ClassNames
from pipelines.errors import UserError
from tests.model.applied import apply, first

_HEAD = registry.get("zero_shot")


def _batch(queries, names) -> Batch:
    nothing = jnp.zeros((len(queries), 0))
    queries = jnp.asarray(queries)
    batch = Batch(standardize(queries), nothing[..., None], {}, nothing, nothing.astype(bool), offsets=offset(queries))
    return batch._replace(prepared=ClassNames(jnp.asarray(names)))


def test_an_image_is_of_the_class_whose_name_is_nearest_whatever_is_learned():
    rng = np.random.default_rng(0)
    queries, names = rng.normal(1, size=(50, 8)).astype(np.float32), rng.normal(size=(6, 8)).astype(np.float32)
    names /= np.linalg.norm(names, axis=1, keepdims=True)
    cosines = queries.astype(np.float64) @ names.T / np.linalg.norm(queries, axis=1, keepdims=True)
    batch = _batch(queries, names)
    head = _HEAD.build(Train(), 6, batch)
    params = first(head, batch)
    assert registry.count_parameters(head, batch) == 1
    np.testing.assert_allclose(apply(head, params, batch).logits, 100 * cosines, rtol=1e-4)
    for factor in (-3.0, 2.0):
        logits = head.apply({"params": {"factor": jnp.asarray(factor)}}, batch, 0.5, jax.random.key(0)).logits
        assert np.array_equal(logits.argmax(1), cosines.argmax(1))
        np.testing.assert_allclose(logits, 100 * np.exp(factor) * cosines, rtol=1e-4, atol=1e-4)


def test_without_names_in_the_space_of_the_keys_it_is_refused():
    names = {"text": np.ones((3, 4), np.float32)}
    with pytest.raises(UserError, match="no names are embedded in the space of the keys; name the two towers of one"):
        _HEAD.check(types.SimpleNamespace(name_vectors=names), Train())
    _HEAD.check(types.SimpleNamespace(name_vectors=names | {"key": names["text"]}), Train())
