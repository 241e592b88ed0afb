"""Objectives that are more than a loss of logits: parameters and states of their own, turns, stages, predictions."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from configs.base import Curriculum, Heteroscedastic, Mile, Ncr, Paco, Train
from model import objectives
from model.data.batch import Batch, Output
from model.heads.linear import Linear
from model.objectives import losses
from model.objectives.base import Facts, Step

_B, _D, _C = 8, 6, 4
_LABELS = jnp.array([0, 1, 2, 3, 0, 1, 0, 0])
_COUNTS = np.array([40, 20, 10, 5])
_HEAD = Linear(_C)


@jax.jit
def _forward(head, batch: Batch, rng) -> Output:
    return _HEAD.apply({"params": head}, batch, 0.0, rng)


def _start(train: Train, seed: int = 0):
    rng = np.random.default_rng(seed)
    queries = jnp.asarray(rng.normal(size=(_B, _D)), jnp.float32)
    batch = Batch(queries, jnp.zeros((_B, 0, _D)), {}, jnp.zeros((_B, 0)), jnp.zeros((_B, 0), bool))
    head = jax.jit(lambda batch: _HEAD.init(jax.random.key(0), batch, 0.0, None)["params"])(batch)
    objective = objectives.build(train, Facts(_COUNTS, queries, np.asarray(_LABELS)))
    own, state = jax.jit(objective.init)(jax.random.key(1), head, _forward(head, batch, None))
    step = Step(
        head, own, state, batch, _LABELS, jnp.arange(_B), jnp.zeros((), jnp.int32), train.steps, jax.random.key(2)
    )
    return objective, step


def _loss(objective):
    return jax.jit(functools.partial(objective.loss, _forward))


def _log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def _logits(step: Step) -> np.ndarray:
    return np.asarray(_forward(step.head, step.batch, None).logits, np.float64)


def test_ncr_is_cross_entropy_until_it_sets_in():
    objective, step = _start(Train(loss="ncr", steps=100, batch_size=_B, ncr=Ncr(neighbors=3, start=0.1)))
    output = _forward(step.head, step.batch, None)
    plain = float(jax.jit(losses.cross_entropy)(output.logits, step.labels))
    weights = jax.jit(losses.neighbor_weights, static_argnums=(1, 2))(output.features, 3, 1.0)
    both = 0.7 * plain + 0.3 * float(jax.jit(losses.consistency)(output.logits, weights, 2.0))
    loss = _loss(objective)
    for number, expected in ((0, plain), (9, plain), (10, both), (99, both)):
        found = loss(step._replace(number=jnp.int32(number)))[0]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert abs(both - plain) > 0.01


def test_heteroscedastic_without_noise_is_cross_entropy_and_learns_both_kinds_of_noise():
    train = Train(loss="heteroscedastic", heteroscedastic=Heteroscedastic(rank=2, samples=4000))
    objective, step = _start(train)
    quiet = jax.tree.map(jnp.zeros_like, step.own)
    quiet["scale"]["bias"] -= 30.0
    expected = jax.jit(losses.cross_entropy)(jnp.asarray(_logits(step), jnp.float32), step.labels)
    loss = _loss(objective)
    np.testing.assert_allclose(loss(step._replace(own=quiet))[0], expected, rtol=1e-3)
    gradients = jax.jit(jax.grad(lambda own: loss(step._replace(own=own))[0]))(step.own)
    assert all(np.isfinite(leaf).all() and np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients))


def test_heteroscedastic_draws_the_covariance_that_its_parameters_say():
    train = Train(loss="heteroscedastic", heteroscedastic=Heteroscedastic(rank=2, samples=20000, temperature=2.0))
    objective, step = _start(train)
    rng = np.random.default_rng(7)
    own = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape) * 0.7, jnp.float32), step.own)
    output = _forward(step.head, step.batch, None)
    features = np.asarray(output.features, np.float64)
    factors = (features @ np.asarray(own["factors"]["kernel"]) + own["factors"]["bias"]).reshape(_B, _C, 2)
    scales = np.log1p(np.exp(features @ np.asarray(own["scale"]["kernel"]) + own["scale"]["bias"])) + 1e-3
    expected = np.zeros((_B, _C))
    for b in range(_B):
        covariance = factors[b] @ factors[b].T + np.diag(scales[b] ** 2)
        draws = rng.multivariate_normal(_logits(step)[b], covariance, size=200_000)
        expected[b] = np.exp(_log_softmax(draws / 2.0)).mean(0)
    scores = jax.jit(objective.scores)
    found = np.exp(np.asarray(scores(own, output), np.float64))
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-4)
    np.testing.assert_allclose(found, expected, atol=0.015)
    # A prediction does not depend on what else is in its batch.
    alone = scores(own, Output(*(x[2:3] for x in output[:3])))
    np.testing.assert_allclose(alone[0], np.log(found[2]), rtol=1e-4, atol=1e-5)


def test_mile_teaches_then_learns_what_a_copy_of_itself_answers():
    settings = Mile(threshold=0.3, teacher_steps=2, student_steps=3)
    objective, step = _start(Train(loss="mile", mile=settings))
    rng = np.random.default_rng(3)
    loss = _loss(objective)
    given, kept = np.eye(_C)[np.asarray(_LABELS)], None
    for number in range(12):
        # The optimiser moves the head between steps.
        head = jax.tree.map(lambda p: p + jnp.asarray(rng.normal(size=p.shape), jnp.float32), step.head)
        step = step._replace(head=head, number=jnp.int32(number))
        lowered = _logits(step) - math.log(3)
        if number % 5 == 2:
            kept = lowered
        targets = given if number % 5 < 2 else (1 / (1 + np.exp(-kept)) > 0.3).astype(float)
        expected = (np.logaddexp(0, lowered) - targets * lowered).sum(-1).mean()
        found, state = loss(step)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
        step = step._replace(state=state)
    gradients = jax.jit(jax.grad(lambda head: loss(step._replace(head=head))[0]))(step.head)
    assert np.abs(gradients["classifier"]["kernel"]).max() > 0
    scores = objective.scores({}, _forward(step.head, step.batch, None))
    np.testing.assert_allclose(scores, -np.logaddexp(0, -(_logits(step) - math.log(3))), rtol=1e-4, atol=1e-5)


def test_curriculum_weighs_by_subset_and_widens_by_stage():
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(40, _D)).astype(np.float32) * np.repeat([0.2, 1, 3, 1], 10)[:, None]
    labels = np.repeat([0, 1], 20)
    train = Train(loss="curriculumnet", steps=50, curriculum=Curriculum(starts=(0.2, 0.5), weights=(1.0, 0.5, 0.25)))
    objective = objectives.build(train, Facts(np.array([20, 20]), queries, labels))
    stages = objective.stages()
    assert [stage.first for stage in stages] == [0, 10, 25]
    clean, noisy, every = (set(stage.rows.tolist()) for stage in stages)
    assert clean < noisy < every == set(range(40))
    logits = rng.normal(size=(40, 2)).astype(np.float32)
    forward = lambda *_: Output(jnp.asarray(logits), jnp.asarray(queries), jnp.zeros((40, 0)))  # noqa: E731
    rows = np.array([7, 30, 2, 39, 12, 21])
    step = Step({}, {}, {}, None, jnp.asarray(labels[rows]), jnp.asarray(rows), jnp.int32(0), 50, None)
    picked = jnp.asarray(logits)[rows]
    forward = lambda *_: Output(picked, picked, jnp.zeros((6, 0)))  # noqa: E731
    weights = [1.0 if row in clean else 0.5 if row in noisy else 0.25 for row in rows.tolist()]
    each = -_log_softmax(np.asarray(picked, np.float64))[np.arange(6), labels[rows]]
    np.testing.assert_allclose(objective.loss(forward, step)[0], (weights * each).mean(), rtol=1e-5)


def _unit(own: dict, features: np.ndarray) -> np.ndarray:
    own = jax.tree.map(lambda p: np.asarray(p, np.float64), own)
    hidden = np.maximum(features @ own["hidden"]["kernel"] + own["hidden"]["bias"], 0)
    projected = hidden @ own["out"]["kernel"] + own["out"]["bias"]
    return projected / np.linalg.norm(projected, axis=-1, keepdims=True)


def test_paco_contrasts_two_views_and_the_queue_of_a_momentum_copy():
    settings = Paco(alpha=0.3, queue=20, dim=5, momentum=0.75, view_dropout=0.0, temperature=0.5, gamma=0.8)
    objective, step = _start(Train(loss="paco", batch_size=_B, paco=settings))
    labels, rng = np.asarray(_LABELS), np.random.default_rng(4)
    copy_head, copy_own = (jax.tree.map(lambda p: np.asarray(p, np.float64), x) for x in (step.head, step.own))
    kept: list[tuple[np.ndarray, int]] = []
    loss = _loss(objective)
    for number in range(4):
        head, own = (
            jax.tree.map(lambda p: p + 0.3 * jnp.asarray(rng.normal(size=p.shape), jnp.float32), x)
            for x in (step.head, step.own)
        )
        step = step._replace(head=head, own=own, number=jnp.int32(number))
        copy_own = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * np.asarray(new, np.float64), copy_own, own)
        features = np.asarray(_forward(head, step.batch, None).features, np.float64)
        first, second = _unit(own, features), _unit(copy_own, features)
        logits = _logits(step) + np.log(_COUNTS / _COUNTS.sum())
        expected = 0.0
        for i in range(_B):
            others = [(first[j], labels[j]) for j in range(_B) if j != i]
            others += [(second[j], labels[j]) for j in range(_B)] + kept[-20:]
            near = [(first[i] @ z / 0.5, label) for z, label in others]
            below = np.log(np.exp(logits[i]).sum() + 0.8 * sum(np.exp(s) for s, _ in near))
            terms = [(1.0, logits[i, labels[i]])] + [(0.3, s) for s, label in near if label == labels[i]]
            expected -= sum(w * (s - below) for w, s in terms) / sum(w for w, _ in terms) / _B
        found, state = loss(step)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
        kept += [(second[j], int(labels[j])) for j in range(_B)]
        step = step._replace(state=state)
    np.testing.assert_allclose(state["copy"]["own"]["out"]["kernel"], copy_own["out"]["kernel"], rtol=1e-4, atol=1e-6)
    gradients = jax.jit(jax.grad(lambda own: loss(step._replace(own=own))[0]))(step.own)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients))


def test_the_views_of_paco_differ_by_dropout_of_the_query():
    objective, step = _start(Train(loss="paco", batch_size=_B, paco=Paco(queue=_B, dim=5, view_dropout=0.5)))

    def views(step):
        seen = []

        def forward(head, batch, rng):
            seen.append(batch.queries)
            return _forward(head, batch, rng)

        objective.loss(forward, step)
        return seen

    seen = [np.asarray(view) for view in jax.jit(views)(step)]
    first, second = (view == 0 for view in seen)
    assert 0.2 < first.mean() < 0.8 and 0.2 < second.mean() < 0.8 and (first != second).any()
    np.testing.assert_allclose(seen[0][~first], 2 * np.asarray(step.batch.queries)[~first], rtol=1e-6)
