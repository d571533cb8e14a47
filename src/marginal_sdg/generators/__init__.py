"""Generators: from noisy marginals to a model."""

from __future__ import annotations

from marginal_sdg.domain import Domain
from marginal_sdg.errors import ConfigError
from marginal_sdg.generators.base import Generator


def make_generator(name: str, domain: Domain, max_model_mb: float) -> Generator:
    """The generator called ``name``: ``"pgm"``, our own engine, or ``"mbi"``, the private-pgm package."""
    if name == "pgm":
        from marginal_sdg.generators.pgm import PGM

        return PGM(domain, max_model_mb=max_model_mb)
    if name == "mbi":
        from marginal_sdg.generators.mbi import MBI

        return MBI(domain)
    raise ConfigError(f"generator: must be 'pgm' or 'mbi', got {name!r}")
