"""A calibrated graphical model: any marginal, exact log-likelihood, sampling, and files without pickle."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from marginal_sdg.domain import Clique, Domain
from marginal_sdg.encoding import Table
from marginal_sdg.errors import ConfigError, DataError, DomainError
from marginal_sdg.graphical.calibration import Calibrated, Calibrator
from marginal_sdg.graphical.contraction import contract
from marginal_sdg.graphical.junction import JunctionTree, Sizes, bits, mask_of
from marginal_sdg.graphical.reduction import plan
from marginal_sdg.graphical.sampling import sample_codes
from marginal_sdg.marginals import Layout, cell_numbers

if TYPE_CHECKING:
    from marginal_sdg.graphical.conditional import Conditional

Floats = npt.NDArray[np.float64]

_FORMAT = "marginal_sdg.model/1"


class GraphicalModel:
    """The distribution p(x) = exp(sum_c theta_c(x_c)) / Z over a domain, times a number of records ``total``.

    It is public: a function of paid releases only. ``potentials``: clique -> (n_c,) log-potentials, finite, or -inf in
    a cell that is impossible: no record of the model lies there. Attributes outside all cliques are uniform and
    independent.

    Examples
    --------
    >>> domain = Domain.from_shape({"a": 2, "b": 2})
    >>> model = GraphicalModel(domain, {("a",): np.log([1.0, 3.0])}, total=100)
    >>> model.marginal(["a", "b"]).round(6)
    array([[12.5, 12.5],
           [37.5, 37.5]])
    >>> len(model.sample(5)), round(model.given({"a": [1]}).total, 6)
    (5, 75.0)
    """

    def __init__(
        self,
        domain: Domain,
        potentials: Mapping[Clique, Floats],
        total: float,
        *,
        calibrator: Calibrator | None = None,
        calibrated: Calibrated | None = None,
    ) -> None:
        self.domain = domain
        self.total = float(total)
        self.potentials = {domain.clique(clique): np.asarray(theta, float) for clique, theta in potentials.items()}
        masks = [self.mask(clique) for clique in self.potentials]
        if calibrator is None or calibrated is None:
            calibrator = Calibrator(JunctionTree.covering(Sizes(domain.shape), masks), masks)
            theta = np.concatenate([np.zeros(0), *self.potentials.values()])
            if len(theta) != calibrator.starts[-1] or not (theta < np.inf).all():
                raise DataError("model: every potential needs one value below infinity per cell of its clique")
            calibrated = calibrator(theta)
        self.tree = calibrator.tree
        self.log_partition = calibrated.log_partition
        self._nodes = calibrated.nodes
        self._conditionals: dict[tuple[int, int], Floats] = {}
        self._messages: dict[tuple[int, int, int], Floats] = {}
        self._beyond: dict[tuple[int, int], int] = {}

    @property
    def cliques(self) -> tuple[Clique, ...]:
        """The parametrised cliques: measured, known, or with impossible cells."""
        return tuple(self.potentials)

    @property
    def cells(self) -> int:
        """Cells of all junction-tree tables: memory in units of 8 bytes."""
        return self.tree.cells

    def mask(self, clique: Iterable[str]) -> int:
        """The attributes of ``clique`` as bits."""
        return mask_of(self.domain.index(name) for name in clique)

    # -- marginals ---------------------------------------------------------------------------------------------

    def probabilities(self, clique: Iterable[str]) -> Floats:
        """Model distribution over the cells of ``clique``: (n_q,) float64, sums to 1, row-major."""
        return self._marginal(self.mask(self.domain.clique(clique))).flatten()

    def marginal(self, clique: Iterable[str]) -> Floats:
        """Expected counts of ``clique`` shaped by its attributes in domain order, records."""
        canonical = self.domain.clique(clique)
        return self.total * self._marginal(self.mask(canonical))

    def distribution(self, layout: Layout) -> Floats:
        """All cliques of a layout end to end, each summing to 1: (sum n_q,) float64."""
        result = np.empty(int(layout.offsets[-1]))
        for clique in layout.cliques:
            result[layout.cells_of(clique)] = self._marginal(self.mask(clique)).ravel()
        return result

    def _marginal(self, mask: int) -> Floats:
        tree, cells = self.tree, self.tree.sizes.cells
        start = max(
            range(len(tree.nodes)),
            key=lambda i: ((tree.nodes[i] & mask).bit_count(), -cells(tree.nodes[i])),
        )
        return self._collect(start, -1, mask)

    def _collect(self, node: int, origin: int, keep: int) -> Floats:
        """Distribution of ``keep`` in the branch at ``node``, given the separator towards ``origin`` (if any)."""
        tree = self.tree
        key = (node, origin, keep)
        known = self._messages.get(key)
        if known is not None:
            return known
        mask = tree.nodes[node]
        separator = mask & tree.nodes[origin] if origin >= 0 else 0
        factors = [(mask, self._nodes[node] if origin < 0 else self._conditional(node, origin))]
        missing = keep & ~mask
        for neighbour in tree.neighbours[node]:
            found = missing & self._reach(neighbour, node) if neighbour != origin else 0
            if found:
                missing &= ~found
                factors.append((found | (mask & tree.nodes[neighbour]), self._collect(neighbour, node, found)))
        if missing and origin < 0:  # attributes of an unconnected component are independent
            raise AssertionError("the junction tree does not reach every attribute")
        result = contract(tree.sizes, factors, keep | separator)
        if origin >= 0:
            self._messages[key] = result
        return result

    def _conditional(self, node: int, origin: int) -> Floats:
        """p(node | separator towards origin), shaped as the node; 0 where the separator has no mass."""
        known = self._conditionals.get((node, origin))
        if known is None:
            mask = self.tree.nodes[node]
            separator = mask & self.tree.nodes[origin]
            mass = plan(self.tree.sizes, mask, separator)(self._nodes[node].ravel())
            inverse = np.divide(1.0, mass, out=np.zeros_like(mass), where=mass > 1e-290)
            known = self._nodes[node] * inverse.reshape(self.tree.sizes.broadcast(separator, mask))
            self._conditionals[node, origin] = known
        return known

    def _reach(self, node: int, origin: int) -> int:
        """All attributes in the branch that hangs off ``node``, seen from ``origin``."""
        known = self._beyond.get((node, origin))
        if known is None:
            known = self.tree.nodes[node]
            for neighbour in self.tree.neighbours[node]:
                if neighbour != origin:
                    known |= self._reach(neighbour, node)
            self._beyond[node, origin] = known
        return known

    # -- likelihood and sampling -------------------------------------------------------------------------------

    def log_likelihood(self, table: Table) -> Floats:
        """Exact log-probability of every record: (n,) float64, nats; -inf where it is impossible.

        Source: log p(x) = sum theta_c(x_c) - log Z.
        """
        if table.domain != self.domain:
            raise DomainError("log_likelihood: the table's domain is not the model's; encode it with the same domain")
        result = np.full(len(table), -self.log_partition)
        for clique, theta in self.potentials.items():
            result += theta[cell_numbers(table, clique)]
        return result

    def sample(self, rows: int | None = None, rng: np.random.Generator | None = None, *, rounded: bool = True) -> Table:
        """Draw a synthetic table; ``rows`` defaults to the model's (noisy) total.

        ``rounded``: counts of every conditional are rounded at random within each group, so that a sampled marginal
        is as close to the model's as integers allow (source: Private-PGM's synthetic data); with ``rounded=False``
        records are independent draws from the model.
        """
        count = max(round(self.total), 0) if rows is None else rows
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 0:
            raise ConfigError(f"rows: must be a whole number of at least 0, got {rows!r}")
        codes = sample_codes(self.tree, self._nodes, int(count), rng or np.random.default_rng(), rounded=rounded)
        return Table(self.domain, codes)

    def sample_batches(self, rows: int, batch: int, rng: np.random.Generator) -> Iterator[Table]:
        """Draw ``rows`` records in tables of at most ``batch``, for more records than memory holds."""
        if batch < 1:
            raise ConfigError(f"batch: must be at least 1, got {batch}")
        for start in range(0, rows, batch):
            yield self.sample(min(batch, rows - start), rng)

    def given(self, allowed: Mapping[str, Iterable[int]]) -> Conditional:
        """The model of those records whose attributes lie in ``allowed``: name -> codes; exact, no rejection."""
        from marginal_sdg.graphical.conditional import Conditional

        return Conditional.of(self, allowed)

    # -- files -------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write domain, potentials and total to one ``.npz`` file; no pickle."""
        with Path(path).open("wb") as file:
            self.save_to(file)

    def save_to(self, file: IO[bytes]) -> None:
        """The same to an open file."""
        header = {
            "format": _FORMAT,
            "domain": self.domain.to_dict(),
            "total": self.total,
            "cliques": [list(clique) for clique in self.cliques],
        }
        arrays = {f"potential_{k}": theta for k, theta in enumerate(self.potentials.values())}
        encoded = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
        np.savez_compressed(file, header=encoded, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | Path) -> GraphicalModel:
        """Read a model written by :meth:`save`; ``DataError`` where the file is missing, foreign or damaged."""
        try:
            with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
                header = json.loads(archive["header"].tobytes().decode())
                if header["format"] != _FORMAT:
                    raise DataError(f"{path}: is of format {header['format']!r}, this version reads {_FORMAT!r}")
                domain = Domain.from_dict(header["domain"])
                cliques = [tuple(clique) for clique in header["cliques"]]
                potentials = {clique: archive[f"potential_{k}"] for k, clique in enumerate(cliques)}
                return cls(domain, potentials, header["total"])
        except DataError:
            raise
        except Exception as error:
            raise DataError(
                f"{path}: cannot be read as a saved model ({type(error).__name__}); save it again"
            ) from error

    def _repr_html_(self) -> str:
        from marginal_sdg.page import Page

        biggest = max(self.tree.nodes, key=self.tree.sizes.cells)
        names = ", ".join(self.domain.names[i] for i in bits(biggest))
        cards = [
            ("records", f"{self.total:,.0f}"),
            ("columns", f"{len(self.domain)}"),
            ("measured cliques", f"{len(self.cliques)}"),
            ("cells", f"{self.cells:,}"),
        ]
        return Page("").cards(cards).text(f"Largest node of its junction tree: {names}.")._repr_html_()
