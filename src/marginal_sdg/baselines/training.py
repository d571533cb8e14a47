"""Training: alternate private steps of the discriminator and free steps of the generator.

The generator sees private records only through the discriminator, so all that DP-SGD has to protect is the gradient of
the discriminator's loss on real records.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax

from marginal_sdg.baselines.networks import (
    Layers,
    OneHot,
    clipped_gradient,
    discriminate,
    generate,
    latents,
    make_discriminator,
    make_generator,
    soft_sample,
)
from marginal_sdg.privacy.sgd import gaussian_of

COMPONENTS = 8192  # latent draws of the fitted mixture


@dataclass(frozen=True)
class Settings:
    """What is fixed during a run; ``clip``: largest L2 norm of one record's gradient."""

    onehot: OneHot
    batch_size: int  # expected number of a contributor's real records in a step, and the number of generated ones
    clip: float
    generator_lr: float
    discriminator_lr: float


@dataclass(frozen=True)
class Batch:
    """The real records of one step: (b, d) codes of ``contributors`` holders of data, each of whom adds its noise."""

    codes: npt.NDArray[np.int32]
    contributors: int = 1


State = tuple[Layers, Layers, Any, Any]


class Trainer:
    """The state of a run and its one compiled step. ``key`` decides everything public: weights, latents, conditions."""

    def __init__(self, settings: Settings, frequencies: npt.NDArray[np.float64], key: jax.Array) -> None:
        self._settings = settings
        self._cdf = jnp.asarray(np.cumsum(frequencies) / frequencies.sum(), dtype=jnp.float32)
        self._state, self._key = _start(settings, key)
        self.parameters = _flat(self._state[0])[0].size, _flat(self._state[1])[0].size

    def train(self, batches: Iterable[Batch], multiplier: float, bits: Callable[[int], npt.NDArray[np.uint32]]) -> None:
        """One step per batch; ``multiplier``: standard deviation of a contributor's noise, in clipping norms.

        The sum of several contributors' noises is drawn at once, from so many random words of ``bits``.
        """
        settings = self._settings
        for batch in batches:
            expected, size = batch.contributors * settings.batch_size, len(batch.codes)
            unit = math.ceil(expected + 6 * expected**0.5)  # filled up to a multiple: mostly one shape to compile
            padded = np.zeros((max(-(-size // unit), 1) * unit, batch.codes.shape[1]), dtype=np.int32)
            padded[:size] = batch.codes
            mask = (np.arange(len(padded)) < size).astype(np.float32)
            std = np.float32(multiplier * settings.clip * batch.contributors**0.5)
            inputs = padded, mask, (std, np.float32(expected)), bits(self.parameters[1])
            self._state, self._key = _step(settings, self._state, self._cdf, *inputs, self._key)

    def components(self) -> npt.NDArray[np.float32]:
        """Log-probabilities of all attributes for COMPONENTS draws of latents and conditions: (m, cells)."""
        keys = jax.random.split(self._key, 8)
        parts = [_components(self._settings, self._state[0], self._cdf, key) for key in keys]
        return np.concatenate(parts, dtype=np.float32)


def _flat(layers: Layers) -> tuple[jax.Array, Callable[[jax.Array], Layers]]:
    """All parameters in one vector, and the way back."""
    from jax.flatten_util import ravel_pytree

    vector, back = ravel_pytree(layers)  # type: ignore[no-untyped-call]
    return vector, back


def _optimizers(settings: Settings) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    return (
        optax.adam(settings.generator_lr, b1=0.5, b2=0.9),
        optax.adam(settings.discriminator_lr, b1=0.5, b2=0.9),
    )


def _conditions(key: jax.Array, cdf: jax.Array, records: int) -> tuple[jax.Array, jax.Array]:
    """(records, cells) one-hot conditions, and the cells they ask for."""
    cells = jnp.minimum(jnp.searchsorted(cdf, jax.random.uniform(key, (records,))), len(cdf) - 1)
    return jax.nn.one_hot(cells, len(cdf)), cells


@partial(jax.jit, static_argnums=0)
def _start(settings: Settings, key: jax.Array) -> tuple[State, jax.Array]:
    first, second, key = jax.random.split(key, 3)
    generator = make_generator(first, settings.onehot.cells)
    discriminator = make_discriminator(second, settings.onehot.cells)
    of_generator, of_discriminator = _optimizers(settings)
    return (generator, discriminator, of_generator.init(generator), of_discriminator.init(discriminator)), key


@partial(jax.jit, static_argnums=0)
def _components(settings: Settings, generator: Layers, cdf: jax.Array, key: jax.Array) -> jax.Array:
    first, second = jax.random.split(key)
    condition, _ = _conditions(first, cdf, COMPONENTS // 8)
    return settings.onehot.log_softmax(generate(generator, latents(second, COMPONENTS // 8), condition))


@partial(jax.jit, static_argnums=0)
def _step(
    settings: Settings,
    state: State,
    cdf: jax.Array,
    codes: jax.Array,
    mask: jax.Array,
    scale: tuple[jax.Array, jax.Array],
    bits: jax.Array,
    key: jax.Array,
) -> tuple[State, jax.Array]:
    generator, discriminator, of_generator, of_discriminator = state
    onehot, size = settings.onehot, settings.batch_size
    optimizers = _optimizers(settings)
    key, *keys = jax.random.split(key, 6)

    def fake(layers: Layers) -> tuple[jax.Array, jax.Array]:
        condition, cells = _conditions(keys[0], cdf, size)
        logits = generate(layers, latents(keys[1], size), condition)
        asked = jnp.take_along_axis(onehot.log_softmax(logits), cells[:, None], axis=1)
        return jnp.concatenate([soft_sample(keys[2], logits, onehot), condition], axis=1), -asked.mean()

    # discriminator: clipped gradients of real records plus noise, and as many generated ones, which are public
    rows = onehot.encode(codes)
    column = jax.random.randint(keys[3], (len(codes),), 0, len(onehot.shape))
    own = jnp.take_along_axis(codes, column[:, None], axis=1)[:, 0] + jnp.asarray(onehot.starts)[column]
    real = jnp.concatenate([rows, jax.nn.one_hot(own, onehot.cells)], axis=1)
    private, unravel = _flat(clipped_gradient(discriminator, real, True, mask, settings.clip))
    private = private + scale[0] * gaussian_of(bits)
    (rows, disobedience), backward = jax.vjp(fake, generator)
    public = _flat(clipped_gradient(discriminator, rows, False, jnp.ones(size), settings.clip))[0]
    updates, of_discriminator = optimizers[1].update(unravel(private / scale[1] + public / size), of_discriminator)
    discriminator = optax.apply_updates(discriminator, updates)

    # generator: fool the discriminator, and do what the condition asks
    slope = jax.grad(lambda rows: jax.nn.softplus(-discriminate(discriminator, rows)[0]).mean())(rows)
    updates, of_generator = optimizers[0].update(backward((slope, jnp.ones_like(disobedience)))[0], of_generator)
    return (optax.apply_updates(generator, updates), discriminator, of_generator, of_discriminator), key
