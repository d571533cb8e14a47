"""Generators: from noisy marginals to a model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from marginal_sdg.domain import Clique, Domain
from marginal_sdg.errors import ConfigError
from marginal_sdg.generators.base import Generator


def make_generator(
    name: str,
    domain: Domain,
    max_model_mb: float,
    zeros: Mapping[Clique, npt.NDArray[np.float64]] | None = None,
    *,
    annealing: bool = False,
) -> Generator:
    """The generator called ``name``: ``"pgm"``, our own engine, or ``"mbi"``, the private-pgm package.

    ``zeros``: what is impossible, ``annealing``: what for; see :class:`PGM`.
    """
    if name == "pgm":
        from marginal_sdg.generators.pgm import PGM

        return PGM(domain, max_model_mb=max_model_mb, zeros=zeros, annealing=annealing)
    if name == "mbi":
        if zeros:
            raise ConfigError("generator: 'mbi' knows no impossible cells; use 'pgm', or drop impossible")
        from marginal_sdg.generators.mbi import MBI

        return MBI(domain)
    raise ConfigError(f"generator: must be 'pgm' or 'mbi', got {name!r}")
