"""The GAN's parts: one-hot layout, clipping against the definition, conditions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from marginal_sdg.baselines import networks
from marginal_sdg.baselines.networks import OneHot, clipped_gradient, discriminate, make_discriminator

ONEHOT = OneHot((3, 4, 2, 5))


def rows(records: int, seed: int = 0) -> jax.Array:
    codes = np.random.default_rng(seed).integers(0, ONEHOT.shape, (records, 4))
    return ONEHOT.encode(jnp.asarray(np.concatenate([codes, codes])[:records]))


@pytest.fixture(scope="module")
def layers() -> networks.Layers:
    return make_discriminator(jax.random.key(3), ONEHOT.cells)


def one_gradient(layers: networks.Layers, x: jax.Array, real: bool) -> np.ndarray:
    """By the definition: the gradient of one record's cross-entropy."""

    def loss(layers: networks.Layers) -> jax.Array:
        logit = discriminate(layers, x[None])[0][0]
        return jax.nn.softplus(-logit if real else logit)

    return np.asarray(ravel_pytree(jax.grad(loss)(layers))[0], dtype=np.float64)


@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize("clip", [1e-3, 1.0, 1e6])
def test_clipped_gradient_is_the_sum_of_each_records_clipped_gradient(layers, real, clip):
    x = jnp.concatenate([rows(6), rows(6, 1)], axis=1)
    mask = jnp.array([1.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    gradients = [one_gradient(layers, row, real) for row in x]
    expected = sum(m * g * min(1, clip / np.linalg.norm(g)) for m, g in zip(mask, gradients, strict=True))
    ours = np.asarray(ravel_pytree(clipped_gradient(layers, x, real, mask, clip))[0])
    np.testing.assert_allclose(ours, expected, rtol=2e-3, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("clip", [1e-2, 1.0])
def test_no_record_moves_the_sum_by_more_than_the_clipping_norm(layers, clip, size):
    grown = jax.tree.map(lambda w: size * w, layers)
    for row in jnp.concatenate([rows(20), rows(20, 1)], axis=1):
        gradient = ravel_pytree(clipped_gradient(grown, row[None], True, jnp.ones(1), clip))[0]
        assert np.linalg.norm(np.asarray(gradient, dtype=np.float64)) <= clip


def test_a_padded_batch_gives_the_gradient_of_its_real_records(layers):
    x = jnp.concatenate([rows(8), rows(8, 1)], axis=1)
    short = clipped_gradient(layers, x[:5], True, jnp.ones(5), 1.0)
    padded = clipped_gradient(layers, x, True, jnp.arange(8) < 5, 1.0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), short, padded)


def test_one_hot_rows_and_log_softmax_follow_the_attributes():
    codes = jnp.array([[2, 0, 1, 4], [0, 3, 0, 0]])
    assert np.flatnonzero(ONEHOT.encode(codes)[0]).tolist() == [2, 3, 8, 13]
    logits = jax.random.uniform(jax.random.key(0), (5, ONEHOT.cells), minval=-300, maxval=300)
    found = ONEHOT.log_softmax(logits)
    for start, size in zip(ONEHOT.starts, ONEHOT.shape, strict=True):
        part = slice(start, start + size)
        np.testing.assert_allclose(found[:, part], jax.nn.log_softmax(logits[:, part]), rtol=1e-5, atol=1e-4)
    slope = jax.grad(lambda logits: ONEHOT.log_softmax(logits)[0, 4])(logits)
    expected = np.zeros(ONEHOT.cells)
    expected[3:7] = (np.arange(4) == 1) - np.exp(found[0, 3:7])
    np.testing.assert_allclose(slope[0], expected, atol=1e-5)


def test_extremes_are_finite_however_many_are_drawn():
    """One of 2^23 uniform numbers is zero: minus the log of an exponential made from it would be infinite."""
    key = jax.random.key(0)
    assert bool(jnp.isfinite(networks.extremes(key, (1 << 24,))).all())
    assert not bool(jnp.isfinite(jnp.log(jax.random.exponential(key, (1 << 24,), jnp.float32))).all())


def test_soft_samples_are_drawn_from_the_softmax():
    logits = jnp.tile(jnp.log(jnp.array([0.2, 0.3, 0.5, 0.1, 0.2, 0.3, 0.4, 0.9, 0.1] + [0.2] * 5)), (4000, 1))
    soft = np.asarray(networks.soft_sample(jax.random.key(1), logits, ONEHOT))
    np.testing.assert_allclose(soft[:, :3].sum(axis=1), 1, atol=1e-5)
    shares = np.bincount(soft[:, :3].argmax(axis=1), minlength=3) / 4000
    np.testing.assert_allclose(shares, [0.2, 0.3, 0.5], atol=5 * 0.5 / 4000**0.5)
