"""Losses as functions of logits and features, averaged over the batch."""

import jax
import jax.numpy as jnp
import optax

from model.data.batch import unit

# Keeps roots, quotients and logarithms of 0 finite.
EPSILON = 1e-12


def cross_entropy(
    logits: jax.Array, labels: jax.Array, smoothing: float = 0.0, weights: jax.Array | None = None
) -> jax.Array:
    """Cross entropy.

    Args:
        logits: `[B, C]`.
        labels: int32 `[B]`, or the share of each class `[B, C]`.
        smoothing: share of the target spread evenly over all classes.
        weights: of the images, `[B]`; the weighted sum is divided by B.
    """
    shares = labels if labels.ndim > 1 else jax.nn.one_hot(labels, logits.shape[-1])
    targets = optax.smooth_labels(shares, smoothing)
    each = optax.softmax_cross_entropy(logits, targets)
    return (each if weights is None else weights * each).mean()


def lace(logits: jax.Array, labels: jax.Array, log_prior: jax.Array, tau: float = 1.0) -> jax.Array:
    """Logit-adjusted cross entropy for long tails (Menon et al., ICLR 2021, eq. 10).

    Args:
        logits: `[B, C]`; prediction is their plain argmax.
        labels: int32 `[B]`, or the share of each class `[B, C]`.
        log_prior: log of the classes' shares of the training set, `[C]`.
        tau: strength of the adjustment.
    """
    return cross_entropy(logits + tau * log_prior, labels)


def log_prior(class_counts: jax.Array) -> jax.Array:
    """Returns the log of each class's share of the training images `[C]`."""
    counts = jnp.asarray(class_counts, jnp.float32)
    return jnp.log(counts / counts.sum())


def neighbor_weights(features: jax.Array, k: int, gamma: float) -> jax.Array:
    """Returns the weight of each image of a batch for each other one, `[B, B]` (Iscen et al., CVPR 2022, eq. 4).

    `relu(cos)^gamma` for the k nearest but itself, divided by their sum, and 0 for the rest. The row of an image whose
    neighbours all have a cosine of at most 0 is 0.

    Args:
        features: `[B, D]`.
        k: neighbours, less than B.
        gamma: power above 0.
    """
    count = len(features)
    directions = unit(features, EPSILON)
    similarities, near = jax.lax.top_k(jnp.where(jnp.eye(count, dtype=bool), -jnp.inf, directions @ directions.T), k)
    positive = similarities > 0
    powers = jnp.where(positive, jnp.where(positive, similarities, 1) ** gamma, 0)
    powers /= jnp.maximum(powers.sum(-1, keepdims=True), EPSILON)
    return jnp.zeros((count, count)).at[jnp.arange(count)[:, None], near].set(powers)


def consistency(logits: jax.Array, weights: jax.Array, temperature: float) -> jax.Array:
    """`T^2 KL(sum_j w_ij softmax(l_j / T) || softmax(l_i / T))` (Iscen et al., CVPR 2022, eq. 5).

    Gradients flow through both sides, as in the authors' code. A row of weights that is 0 has no part in it.

    Args:
        logits: `[B, C]`.
        weights: of `neighbor_weights`, `[B, B]`.
        temperature: T.
    """
    target = weights @ jax.nn.softmax(logits / temperature)
    divergence = target * (jnp.log(target + EPSILON) - jax.nn.log_softmax(logits / temperature))
    return temperature**2 * divergence.sum(-1).mean()


def binary_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Binary cross entropy, summed over classes.

    Args:
        logits: `[B, C]`.
        targets: 0 or 1, `[B, C]`.
    """
    return optax.sigmoid_binary_cross_entropy(logits, targets).sum(-1).mean()


def noisy_log_probabilities(
    mean: jax.Array, factors: jax.Array, scales: jax.Array, noise: tuple[jax.Array, jax.Array], temperature: float
) -> jax.Array:
    """Log of `mean_S softmax(u / T)` with `u = mu + V e_R + d e`, `[B, C]` (Collier et al., CVPR 2021, section 3).

    Args:
        mean: mu, `[B, C]`.
        factors: V, `[B, C, R]`.
        scales: d, `[B, C]`.
        noise: e_R `[S, B, R]` and e `[S, B, C]`; B is 1 if all images share it.
        temperature: T.
    """
    low = jnp.einsum("bcr,sbr->sbc", factors, jnp.broadcast_to(noise[0], (len(noise[0]), len(mean), factors.shape[-1])))
    utilities = mean + low + scales * noise[1]
    samples = jax.nn.log_softmax(utilities / temperature)
    return jax.nn.logsumexp(samples, axis=0) - jnp.log(len(samples))


def parametric_contrastive(
    logits: jax.Array,
    labels: jax.Array,
    similarities: jax.Array,
    contrasted: jax.Array,
    weights: tuple[float, float, float],
) -> jax.Array:
    """Supervised contrastive loss with class centres (Cui et al., ICCV 2021, eq. 4 and 5).

    Positives are the centre of the class, with weight beta, and the contrasted images of the class, with alpha:
    `-sum_+ w_+ log(exp(s_+) / (sum_c exp(l_c) + gamma sum_j exp(s_j))) / sum_+ w_+`.

    Args:
        logits: of the centres, to which the log prior has been added, `[B, C]`.
        labels: int32 `[B]`.
        similarities: of each image to the images it is contrasted with, over the temperature, `[B, M]`.
        contrasted: their labels, int32 `[B, M]`; negative for entries that are not contrasted.
        weights: alpha, beta and gamma.
    """
    alpha, beta, gamma = weights
    valid = contrasted >= 0
    targets = beta * jax.nn.one_hot(labels, logits.shape[-1])
    alike = jnp.where(valid & (contrasted == labels[:, None]), alpha, 0)
    all_logits = jnp.concatenate([logits, similarities], -1)
    shares = jnp.concatenate([jnp.ones_like(logits), jnp.where(valid, gamma, 0)], -1)
    total = jax.nn.logsumexp(all_logits, axis=-1, b=shares, keepdims=True)
    positives = jnp.concatenate([targets, alike], -1)
    return -((positives * (all_logits - total)).sum(-1) / positives.sum(-1)).mean()
