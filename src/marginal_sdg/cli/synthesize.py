"""``synthesize``: spend a privacy budget on a table, and write synthetic rows, a report and the model."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from marginal_sdg.cli.inputs import DRAFT_CAVEAT, FILE, check_output, load_domain, note, parse_workload
from marginal_sdg.cli.mechanisms import MECHANISMS, make_mechanism
from marginal_sdg.cli.options import mechanism_of, of_a_fit, of_rows
from marginal_sdg.cli.sample import conditions, write_rows


@click.command()
@click.argument("table", type=FILE)
@click.option("--domain", "domain_file", type=FILE, required=True, help="The declared columns; see describe.")
@click.option("--epsilon", type=float, required=True, help="The privacy budget.")
@mechanism_of(MECHANISMS)
@of_a_fit
@of_rows
@click.option("--drop", multiple=True, metavar="COLUMN", help="A column of the table to leave out; may be repeated.")
@click.option("--report", type=FILE, help="What was spent, what it protects, the model: .html, .md or .json.")
@click.option("--compare", is_flag=True, help="Put errors against TABLE into the report: it is then itself private.")
@click.option("--model", "model_file", type=FILE, help="Save the model (.npz), for the command sample.")
@click.option("--ledger", "ledger_file", type=FILE, help="JSON file that adds up what all runs spend on this table.")
@click.option("--total-epsilon", type=float, help="What all runs with that ledger may spend; with its first run.")
def synthesize(
    table: Path,
    domain_file: Path,
    epsilon: float,
    delta: float,
    mechanism: str,
    workload: str,
    target: str | None,
    rows: int | None,
    where: str | None,
    seed: int | None,
    out: Path,
    drop: tuple[str, ...],
    report: Path | None,
    compare: bool,
    model_file: Path | None,
    ledger_file: Path | None,
    total_epsilon: float | None,
    **params: Any,
) -> None:
    """Write a synthetic version of TABLE (CSV or Parquet).

    Everything that can be wrong with the input is found before any budget is spent.
    """
    from marginal_sdg.encoding import Table, merged
    from marginal_sdg.errors import ConfigError, DataError
    from marginal_sdg.report import check_suffix, synthesis_report
    from marginal_sdg.stored import StoredTable, is_large
    from marginal_sdg.table_files import check_format, read_table

    start = time.perf_counter()
    check_format(out)
    for path in (out, report, model_file, ledger_file):
        check_output(path, table, domain_file)
    if report is not None:
        check_suffix(report)
    elif compare:
        raise ConfigError("--compare: belongs to --report; give both or neither")
    if total_epsilon is not None and ledger_file is None:
        raise ConfigError("--total-epsilon: belongs to --ledger; give both or neither")
    domain, draft = load_domain(domain_file)
    allowed = conditions(domain, where)
    with _progress() as on_event:
        synthesizer = make_mechanism(
            mechanism,
            domain,
            epsilon=epsilon,
            delta=delta,
            workload=parse_workload(workload, domain, target),
            seed=seed,
            secure=seed is None,
            on_event=on_event,
            **params,
        )
        _check_rows(synthesizer, allowed)
        account = _shared_ledger(ledger_file, synthesizer, table.name, total_epsilon)
        large = is_large(table, len(domain)) and not (compare or synthesizer.adaptive_bins)
        records = StoredTable(table, domain, drop) if large else read_table(table, domain, drop)
        if isinstance(records, Table) and compare and not len(records):
            raise DataError(f"{table}: has no rows to compare with; drop --compare")
        synthesizer.fit(records, ledger=account)
    if draft:
        synthesizer.ledger.warn(DRAFT_CAVEAT)
    if model_file is not None:
        from marginal_sdg.datasets.files import write_atomically

        write_atomically(model_file, synthesizer.model_.save_to)
    drawn, line = write_rows(synthesizer.model_, allowed, rows, seed, out)
    click.echo(line)
    if report is not None:
        predicted = target if target is not None and domain[target].categories is not None else None
        written = None if allowed or not len(drawn) else drawn  # with a condition they are not like the table
        synthesis_report(
            synthesizer,
            merged(records, synthesizer.model_.domain) if compare and isinstance(records, Table) else None,
            synthetic=written,
            target=predicted if compare else None,
            command=_typed(),
        ).save(report)
    ledger = synthesizer.ledger
    click.echo(
        f"spent epsilon {ledger.epsilon():.4g} at delta {delta:g} in {len(ledger.charges)} charges "
        f"({ledger.adjacency}); {time.perf_counter() - start:.1f} s"
    )
    for caveat in ledger.caveats:
        note(caveat)


def _check_rows(synthesizer: Any, allowed: dict[str, list[int]]) -> None:
    """Find out whether rows that shall be drawn can be, before anything is spent."""
    from marginal_sdg.errors import ConfigError
    from marginal_sdg.impossible import StructuralZeros

    for name in set(allowed) & set(synthesizer.adaptive_bins or ()):
        raise ConfigError(f"where: the bins of {name!r} adapt; save the model, and use sample --where on what they are")
    if allowed:
        StructuralZeros.read(synthesizer.domain, list(synthesizer.impossible)).uniform.given(allowed)


def _shared_ledger(path: Path | None, synthesizer: Any, name: str, total_epsilon: float | None) -> Any:
    """The ledger file as a parent of the fit's own ledger: it is written at the first charge."""
    if path is None:
        return None
    from marginal_sdg.privacy.budget import Budget
    from marginal_sdg.privacy.ledger_file import FiledLedger, LedgerFile

    budget = Budget(synthesizer.epsilon, synthesizer.delta)
    total = None if total_epsilon is None else Budget(total_epsilon, budget.delta)
    file = LedgerFile(path, total, synthesizer.records_per_person)
    return FiledLedger(file, budget, f"{type(synthesizer).__name__} on {name}")


def _typed() -> str:
    """The command as it was given, with files by their names, without folders."""
    context = click.get_current_context()
    words = ["marginal-sdg", "synthesize"]
    for param in context.command.params:
        if context.get_parameter_source(str(param.name)) is ParameterSource.COMMANDLINE:
            value = context.params[str(param.name)]
            option = [param.opts[0]] if isinstance(param, click.Option) else []
            for each in value if isinstance(value, tuple) else (value,):
                words += option if each is True else [*option, each.name if isinstance(each, Path) else str(each)]
    return shlex.join(words)


@contextmanager
def _progress() -> Iterator[Callable[[dict[str, Any]], None]]:
    """Tells a person at a terminal which round is played, and nobody else."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda event: None
        return
    with console.status("reading the table") as status:

        def told(event: dict[str, Any]) -> None:
            if event["event"] == "round":
                picked = ", ".join("+".join(clique) for clique in event["selected"])
                status.update(f"round {event['round']}: {picked}; rho {event['rho_spent']:.4g}")

        yield told
