"""The two networks of a conditional tabular GAN on one-hot coded attributes, and DP-SGD's clipping.

Source: Xu et al. 2019 (CTGAN): residual blocks that widen the generator, Gumbel-softmax outputs, conditions appended
to both networks' inputs, cross-entropy on the condition. Without its batch normalisation, which ties the records of a
batch together (layer normalisation takes its place), its packing (pac 1) and its dropout.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Layers = list[dict[str, jax.Array]]

LATENT = 128
HIDDEN = (256, 256)
TEMPERATURE = 0.2


@dataclass(frozen=True)
class OneHot:
    """Where the attributes' cells stand in a one-hot row; ``shape``: number of codes of each attribute."""

    shape: tuple[int, ...]

    @property
    def cells(self) -> int:
        """Length of a one-hot row."""
        return sum(self.shape)

    @property
    def starts(self) -> tuple[int, ...]:
        """First cell of every attribute."""
        return tuple(int(start) for start in np.cumsum((0, *self.shape))[:-1])

    def encode(self, codes: jax.Array) -> jax.Array:
        """(b, d) codes to (b, cells) rows of ones and zeros."""
        records = jnp.arange(len(codes))[:, None]
        return jnp.zeros((len(codes), self.cells)).at[records, codes + jnp.asarray(self.starts)].set(1.0)

    def log_softmax(self, logits: jax.Array) -> jax.Array:
        """(b, cells) logits to the log-probabilities of every attribute."""
        members = np.repeat(np.eye(len(self.shape), dtype=np.float32), self.shape, axis=0)
        places = np.minimum(np.arange(max(self.shape)), np.array(self.shape)[:, None] - 1)
        places += np.array(self.starts)[:, None]
        largest = jax.lax.stop_gradient(logits)[:, places].max(axis=2)
        shifted = logits - largest @ members.T
        return shifted - jnp.log(jnp.exp(shifted) @ members) @ members.T


def latents(key: jax.Array, records: int) -> jax.Array:
    """(records, LATENT) standard Gaussian: public randomness."""
    return jax.random.normal(key, (records, LATENT))


def extremes(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard Gumbel draws, always finite: the uniform numbers behind them are never zero or one."""
    return -jnp.log(-jnp.log(jax.random.uniform(key, shape, jnp.float32, minval=float(np.finfo(np.float32).tiny))))


def soft_sample(key: jax.Array, logits: jax.Array, onehot: OneHot) -> jax.Array:
    """Gumbel-softmax: nearly one-hot rows that gradients pass through."""
    noisy = logits + extremes(key, logits.shape)
    return jnp.exp(onehot.log_softmax(noisy / TEMPERATURE))


def make_layers(key: jax.Array, sizes: list[tuple[int, int]]) -> Layers:
    """Dense layers of (inputs, outputs), uniform within 1/sqrt(inputs)."""
    return [
        {"w": jax.random.uniform(part, (n, m), minval=-(n**-0.5), maxval=n**-0.5), "b": jnp.zeros(m)}
        for part, (n, m) in zip(jax.random.split(key, len(sizes)), sizes, strict=True)
    ]


def make_generator(key: jax.Array, cells: int) -> Layers:
    """A generator's parameters: each hidden layer's output is appended to its input."""
    sizes, width = [], LATENT + cells
    for hidden in HIDDEN:
        sizes.append((width, hidden))
        width += hidden
    return make_layers(key, [*sizes, (width, cells)])


def generate(layers: Layers, latent: jax.Array, condition: jax.Array) -> jax.Array:
    """(b, cells) logits of the attributes."""
    x = jnp.concatenate([latent, condition], axis=1)
    for layer in layers[:-1]:
        hidden = jax.nn.standardize(x @ layer["w"] + layer["b"], axis=1)
        x = jnp.concatenate([jax.nn.relu(hidden), x], axis=1)
    return x @ layers[-1]["w"] + layers[-1]["b"]


def make_discriminator(key: jax.Array, cells: int) -> Layers:
    """A discriminator's parameters: records and conditions in, one logit out."""
    widths = (2 * cells, *HIDDEN, 1)
    return make_layers(key, list(pairwise(widths)))


def discriminate(
    layers: Layers, x: jax.Array, shifts: list[jax.Array] | None = None
) -> tuple[jax.Array, list[jax.Array]]:
    """(b,) logits, positive for real; and the layers' inputs. ``shifts`` are added before the activations."""
    inputs = []
    for k, layer in enumerate(layers):
        inputs.append(x)
        x = x @ layer["w"] + layer["b"]
        x = x if shifts is None else x + shifts[k]
        x = x if k == len(layers) - 1 else jax.nn.leaky_relu(x, 0.2)
    return x[:, 0], inputs


def clipped_gradient(layers: Layers, x: jax.Array, real: bool, mask: jax.Array, clip: float) -> Layers:
    """Sum over records of each one's gradient of the binary cross-entropy, cut to an L2 norm of ``clip``.

    A dense layer's gradient for one record is the outer product of the layer's input and the loss's derivative by its
    output: so its norm is known without making it, and the sum over records is one matrix product. ``mask``: (b,),
    zero for records that fill up the batch.
    """

    def loss(shifts: list[jax.Array]) -> tuple[jax.Array, list[jax.Array]]:
        logits, inputs = discriminate(layers, x, shifts)
        return jax.nn.softplus(-logits if real else logits).sum(), inputs

    zeros = [jnp.zeros((len(x), layer["b"].size)) for layer in layers]
    slopes, inputs = jax.grad(loss, has_aux=True)(zeros)
    squares: Any = sum(
        (slope**2).sum(axis=1) * ((before**2).sum(axis=1) + 1) for slope, before in zip(slopes, inputs, strict=True)
    )
    # a little below the bound, which single precision would else exceed by rounding
    weight = mask * jnp.minimum(1.0, clip * (1 - 1e-5) / jnp.sqrt(jnp.maximum(squares, 1e-30)))
    weighted = [slope * weight[:, None] for slope in slopes]
    return [{"w": before.T @ slope, "b": slope.sum(axis=0)} for before, slope in zip(inputs, weighted, strict=True)]
