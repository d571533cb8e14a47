"""The dry run: what would be run, how the budget is split, and how large the models may become.

Uses public facts only: parameters and the declared domains. No data is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from rich.console import Console

from marginal_sdg.domain import Domain
from marginal_sdg.experiment.config import Config
from marginal_sdg.experiment.grid import label, varying
from marginal_sdg.experiment.params import CTGANS, OF_ONE_TABLE, VARIANTS, RunParams
from marginal_sdg.experiment.progress import say, show_table
from marginal_sdg.experiment.run import make_workload
from marginal_sdg.experiment.targets import Targets
from marginal_sdg.federations import SIZE_SHARE
from marginal_sdg.privacy.budget import Budget
from marginal_sdg.schedule import annealing_start, plan_schedule

PROCESS_MB = 250  # of a worker before it fits anything: Python, libraries, a data set
CTGAN_MB = 1000  # of training and evaluating a GAN: compiled steps, the mixture, products with test rows
COPIES = 4  # of the model's tables while it is fitted and sampled from


@dataclass(frozen=True)
class Split:
    """How one cell spends its budget; ``sigma`` (records) and ``epsilon`` (one selection) at first."""

    rho: float
    sizes_rho: float
    gaussians: int
    sigma: float
    selections: int
    epsilon: float


def split_budget(cell: RunParams, attributes: int, first: int | None = None, bins_share: float = 0.0) -> Split:
    """The privacy split of a cell whose workload covers ``attributes`` columns. Source: FLAIM Lemma 4.1.

    ``first``: how many marginals AIM measures before its first round (None: all 1-way ones); ``bins_share``: of the
    budget, for adaptive bins.
    """
    from marginal_sdg.backends.plaintext import AIM_COSTS
    from marginal_sdg.backends.variants import VARIANTS as METHODS
    from marginal_sdg.backends.variants import flaim_costs

    sound = cell.calibration == "sound"
    rho = Budget(cell.epsilon, cell.delta).rho / (cell.records_per_person or 1) ** 2  # of a single record
    initial = 1 if cell.method == "MWEM+PGM" else attributes if first is None else first
    costs, start = replace(AIM_COSTS, initial=initial), annealing_start(attributes, sound=sound)
    if cell.method in VARIANTS:
        assert cell.local_steps is not None
        costs = flaim_costs(METHODS[VARIANTS[cell.method]], attributes, cell.local_steps, sound=sound)
        start = 8 * attributes
    sizes = SIZE_SHARE * rho if sound and cell.method not in OF_ONE_TABLE else rho * 0
    bins = Fraction(str(bins_share)) * rho
    step = plan_schedule(cell.rounds, costs, rho - sizes - bins, cell.gaussian_share, start).initial
    rounds = cell.rounds if isinstance(cell.rounds, int) else start
    return Split(
        rho=float(rho) * (cell.records_per_person or 1) ** 2,
        sizes_rho=float(sizes),
        gaussians=costs.measured(rounds),
        sigma=step.sigma,
        selections=rounds * costs.selections,
        epsilon=float(step.epsilon2) ** 0.5,
    )


def public_domain(dataset: str) -> Domain:
    """The declared domain of a data set, without its rows."""
    from marginal_sdg.datasets.files import shipped_folder

    if dataset == "synthfs":
        return Domain.from_shape({str(j): 41 for j in range(10)})
    return Domain.load(shipped_folder() / "domains" / f"{dataset}.yaml")


def show_plan(config: Config, cells: Sequence[RunParams], targets: Targets, workers: int) -> None:
    """Print the grid, the privacy split and the memory plan."""
    console = Console()
    runs = len(cells) * len(config.seeds)
    say(console, f"{config.title}: {len(cells)} cells x {len(config.seeds)} seeds = {runs} runs")
    compared = sum(bool(targets.of(cell)) for cell in cells)
    if targets.name:
        say(console, f"{compared} of {len(cells)} cells have a published number in {targets.name}")
    names = varying(cells)
    say(
        console,
        "\nPrivacy split (zCDP; adjacency: add or remove one person's records; sizes and below: for a single record)",
    )
    header = ["cell", "epsilon", "delta", "rho", "for sizes", "Gaussians", "sigma", "selections", "eps each"]
    lines = []
    for cell in cells:
        if cell.method in CTGANS:
            continue
        split = split_budget(cell, len(_workload_domain(cell)))
        numbers = [f"{cell.epsilon:g}", f"{cell.delta:g}", f"{split.rho:.6f}", f"{split.sizes_rho:.6f}"]
        numbers += [str(split.gaussians), f"{split.sigma:.2f}", str(split.selections), f"{split.epsilon:.4f}"]
        lines.append([label(cell, names), *numbers])
    show_table(header, lines)
    if any(cell.method in CTGANS for cell in cells):
        say(console, "(Fed) DP-CTGAN: noise and steps follow from a noisy number of records, which is not known yet")
    if any(cell.rounds == "adaptive" for cell in cells):
        say(console, "adaptive rounds: sigma and eps are those of the first round; the schedule anneals them")
    if any(cell.calibration == "paper" for cell in cells):
        say(console, "paper calibration: repeats the published accounting, which does not cover exact sizes")
    if any(cell.method == "AugFLAIM (Oracle)" for cell in cells):
        say(console, "NOT PRIVATE: AugFLAIM (Oracle) uses exact counts; it is a reference")
    say(console, "\nModels and memory")
    show_table(["data set", "columns", "queries", "candidates", "largest", "model cap", "memory"], _sizes(cells))
    most = max(_memory_mb(cell) for cell in cells)
    say(console, f"{workers} workers need at most about {workers * most:,.0f} MB; --workers sets how many")


def _workload_domain(cell: RunParams) -> tuple[tuple[str, ...], ...]:
    """The 1-way marginals that the workload touches: Lemma 4.1's d."""
    seed = cell.workload_seed if isinstance(cell.workload_seed, int) else 0
    return make_workload(cell, public_domain(cell.dataset), seed).one_way


def _sizes(cells: Iterable[RunParams]) -> list[list[str]]:
    lines: dict[tuple[str, ...], None] = {}
    for cell in cells:
        domain = public_domain(cell.dataset)
        seed = cell.workload_seed if isinstance(cell.workload_seed, int) else 0
        workload = make_workload(cell, domain, seed)
        largest = max(domain.size(clique) for clique in workload.closure)
        line = [cell.dataset, str(len(domain)), str(len(workload.cliques)), str(len(workload.closure))]
        line += [
            f"{largest:,} cells",
            f"{cell.max_model_mb:g} MB" if cell.max_model_mb else "",
            f"{_memory_mb(cell):,.0f} MB a worker",
        ]
        lines[tuple(line)] = None
    return [list(line) for line in lines]


def _memory_mb(cell: RunParams) -> float:
    return PROCESS_MB + (CTGAN_MB if cell.method in CTGANS else COPIES * cell.max_model_mb)
