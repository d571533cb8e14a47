"""``plan``: what a fit would spend on what, how large its model may become, and how long it takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from marginal_sdg.cli.inputs import FILE, load_domain, note, parse_workload
from marginal_sdg.cli.mechanisms import MECHANISMS, make_mechanism
from marginal_sdg.cli.options import WholeNumber, mechanism_of, of_a_fit
from marginal_sdg.cli.parties import PARTIES, show_parties

if TYPE_CHECKING:
    from marginal_sdg.domain import Domain
    from marginal_sdg.encoding import Table
    from marginal_sdg.workload import Workload

REHEARSED = 100_000  # rows; beyond it, what grows with the rows is scaled up


@click.command()
@click.argument("source", type=FILE, metavar="DOMAIN_OR_TABLE")
@click.option("--epsilon", type=float, default=1.0, show_default=True, help="The privacy budget.")
@mechanism_of([*MECHANISMS, *PARTIES])
@of_a_fit
@click.option(
    "--rows",
    type=WholeNumber(),
    help="Rehearse a fit on that many made-up rows, and time it; with many parties: of all together, default 1e6.",
)
@click.option("--clients", type=WholeNumber(), help="Clients of flaim and distaim, default 100; data holders of fhaim.")
@click.option("--participation", type=float, help="Share of the clients in a round, default 0.1.")
def plan(
    source: Path,
    epsilon: float,
    delta: float,
    mechanism: str,
    workload: str,
    target: str | None,
    rows: int | None,
    clients: int | None,
    participation: float | None,
    **params: Any,
) -> None:
    """How synthesize would split its budget, and the size of model and memory, before anything is spent.

    With flaim, distaim or fhaim: bytes, memory and CPU seconds of every party at most, and which of them ends first.

    DOMAIN_OR_TABLE is a domain file, or a table, for which a domain is drafted.
    """
    from marginal_sdg.backends.plaintext import first_cliques
    from marginal_sdg.experiment.plan import COPIES, PROCESS_MB, split_budget
    from marginal_sdg.experiment.progress import show_table
    from marginal_sdg.known import exactly_known, known_measurements

    domain = _domain(source)
    if mechanism in PARTIES:
        names = {"epsilon": epsilon, "delta": delta, "clients": clients, "rows": rows, "participation": participation}
        show_parties(mechanism, domain, workload, target, names | params)
        return
    if clients is not None or participation is not None:
        raise click.UsageError(f"--clients and --participation are for {', '.join(PARTIES)}; {mechanism} has one table")
    queries = parse_workload(workload, domain, target)
    fit = make_mechanism(mechanism, domain, epsilon=epsilon, delta=delta, workload=queries, seed=0, **params)
    fit.check()
    candidates = queries.closure if mechanism != "mwem" else queries.cliques
    coarse = _adapted(domain, fit.adaptive_bins or {})
    first = first_cliques(coarse, queries.one_way, exactly_known(known_measurements(domain, fit.known)))
    split = split_budget(_cell(fit), len(queries.one_way), len(first), fit.bins_share or 0.0)
    per = "" if fit.rounds != "adaptive" else " at first (adaptive rounds anneal it)"
    largest = max(candidates, key=coarse.size)
    lines = [
        ["budget", f"epsilon {epsilon:g}, delta {delta:g}: rho {split.rho:.6g} (zCDP); {_adjacency(fit)}"],
        *([["adaptive bins", f"{fit.bins_share:.3g} of rho"]] if fit.adaptive_bins else []),
        ["measurements", f"up to {split.gaussians} with sigma {split.sigma:.4g} records a cell{per}"],
        ["selections", f"up to {split.selections} with epsilon {split.epsilon:.4g} each{per}"],
        ["workload", f"{len(queries.cliques)} marginals, {len(candidates)} candidates for measuring"],
        ["largest candidate", f"{', '.join(largest)}: {coarse.size(largest):,} cells"],
        ["model", f"at most {fit.max_model_mb:g} MB"],
    ]
    memory = PROCESS_MB + COPIES * fit.max_model_mb
    if rows is not None:
        memory += 3 * 4 * rows * len(domain) / 2**20  # the codes, while they are joined and drawn
        lines.append(["time", f"about {_seconds(fit, queries, rows):.1f} s, by a rehearsal on made-up rows"])
    lines.append(["memory", f"at most about {memory:,.0f} MB" + ("" if rows else ", and 12 bytes a row and column")])
    show_table(["", f"{type(fit).__name__} on {len(domain)} columns"], lines)


def _adapted(domain: Domain, bins: Mapping[str, int]) -> Domain:
    """As many codes as after adaptation; where bins will lie is not known yet."""
    from marginal_sdg.domain import Domain as Codes

    sizes = {a.name: a.size - a.values + bins.get(a.name, a.values) for a in domain.attributes}
    return Codes.from_shape(sizes)


def _domain(source: Path) -> Domain:
    if source.suffix.lower() not in (".csv", ".parquet"):
        return load_domain(source)[0]
    from marginal_sdg.draft import draft_domain
    from marginal_sdg.table_files import read_frame

    note("no domain file given: this plan is for a draft that was read off the table, and is private as the table is")
    return draft_domain(read_frame(source)).domain


def _cell(fit: Any) -> Any:
    """The fit's parameters as those of an experiment."""
    from marginal_sdg.experiment.params import RunParams

    names = ("epsilon", "delta", "rounds", "gaussian_share", "calibration", "records_per_person")
    method = {"MWEM": "MWEM+PGM"}.get(type(fit).__name__, type(fit).__name__)
    return RunParams.model_construct(method=method, **{name: getattr(fit, name) for name in names})


def _adjacency(fit: Any) -> str:
    k = fit.records_per_person
    return "protects one record" if k == 1 else f"protects people with up to {k} records"


def _seconds(fit: Any, workload: Workload, rows: int) -> float:
    """Of fit and sampling, on rows that depend on each other as those of a real table may."""
    import time

    start = time.perf_counter()
    few = min(rows, REHEARSED)
    fit.fit(_made_up(workload.domain, few))
    fit.sample(few)
    total = time.perf_counter() - start
    fixed: float = fit.timings_["generate"]
    return fixed + (total - fixed) * rows / few


def _made_up(domain: Domain, rows: int) -> Table:
    import numpy as np

    from marginal_sdg.encoding import Table

    rng = np.random.default_rng(0)
    common = rng.random(rows)
    columns = [np.where(rng.random(rows) < 0.5, common, rng.random(rows)) ** 2 * size for size in domain.shape]
    return Table(domain, np.stack(columns, axis=1).astype(np.int32))
