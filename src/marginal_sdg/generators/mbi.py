"""The private-pgm package (``mbi``) as generator: an alternative, and the oracle of our own engine's tests."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from marginal_sdg.domain import Clique, Domain
from marginal_sdg.errors import ConfigError
from marginal_sdg.graphical.junction import Sizes, mask_of, model_cells
from marginal_sdg.graphical.model import GraphicalModel
from marginal_sdg.release import Measurement, fit_sigma, typical_sigma

ITERATIONS = 100
FINAL_ITERATIONS = 1000


class MBI:
    """Mirror descent of ``mbi``; its log-potentials become our model, which samples and answers.

    100 iterations a round and 1,000 at the end, as the FLAIM paper states. Every new set of cliques is compiled
    anew by JAX, which takes most of the time. Extra: ``pip install marginal-sdg[mbi]``.
    """

    def __init__(self, domain: Domain) -> None:
        try:
            import mbi
        except ImportError as error:
            raise ConfigError("generator: 'mbi' needs the private-pgm package; install marginal-sdg[mbi]") from error
        self.domain = domain
        self._sizes = Sizes(domain.shape)
        self._domain = mbi.Domain(domain.names, domain.shape)

    def cells(self, cliques: Iterable[Clique]) -> int:
        """Cells of the junction tree over ``cliques``."""
        return model_cells(self._sizes, (mask_of(map(self.domain.index, clique)) for clique in cliques))

    def fit(
        self,
        measurements: Sequence[Measurement],
        total: float,
        *,
        warm_start: GraphicalModel | None = None,
        final: bool = False,
    ) -> GraphicalModel:
        """Fit by mirror descent from the potentials of ``warm_start``."""
        import mbi

        measurements = [m for m in measurements if m.clique]  # the empty clique's is the total
        cliques = list(dict.fromkeys(m.clique for m in measurements))
        linear = []
        typical = typical_sigma(measurements, total)
        for m in measurements:
            sigma = fit_sigma(m, total, typical)
            linear.append(mbi.LinearMeasurement(m.scaled(total)[0], m.clique, stddev=sigma))
        with double_precision():
            start = mbi.CliqueVector.zeros(self._domain, cliques)
            if warm_start is not None:
                for clique, theta in warm_start.potentials.items():
                    values = theta.reshape([self.domain.size((name,)) for name in clique])
                    start[clique] = mbi.Factor(self._domain.project(clique), values)
            fitted = mbi.estimation.mirror_descent(
                self._domain,
                linear,
                known_total=total,
                potentials=start,
                iters=FINAL_ITERATIONS if final else ITERATIONS,
            )
            potentials = {
                clique: np.asarray(fitted.potentials[clique].values, dtype=np.float64).ravel()
                for clique in fitted.potentials.cliques
            }
        return GraphicalModel(self.domain, potentials, total)


def double_precision() -> AbstractContextManager[Any]:
    """JAX's switch to 64-bit floats, wherever this version of JAX (0.6 to 0.12) has it."""
    import jax

    home = jax if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental")
    context: AbstractContextManager[Any] = home.enable_x64(True)
    return context
