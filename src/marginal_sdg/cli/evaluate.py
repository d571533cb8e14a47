"""``evaluate``: compare a synthetic table with the real one."""

from __future__ import annotations

from pathlib import Path

import click

from marginal_sdg.cli.inputs import FILE, load_domain


@click.command()
@click.argument("real", type=FILE)
@click.argument("synthetic", type=FILE)
@click.option("--domain", "domain_file", type=FILE, required=True, help="The declared columns of both.")
@click.option("--target", help="A column with categories: compare classifiers that predict it.")
@click.option("--drop", multiple=True, metavar="COLUMN", help="A column of REAL to leave out; may be repeated.")
def evaluate(real: Path, synthetic: Path, domain_file: Path, target: str | None, drop: tuple[str, ...]) -> None:
    """Errors of the marginals of SYNTHETIC against REAL, the worst ones by name, and classifier scores.

    The result is computed on the real rows and is itself private.
    """
    from marginal_sdg.evaluation import PRIVATE
    from marginal_sdg.evaluation import evaluate as compare
    from marginal_sdg.experiment.progress import show_table
    from marginal_sdg.table_files import read_table

    domain, _ = load_domain(domain_file)
    found = compare(read_table(real, domain, drop), read_table(synthetic, domain), target)
    click.echo(f"PRIVATE. {PRIVATE}\n")
    click.echo("L1 distance of normalised marginals (0: the same, 2: disjoint)")
    lines = []
    for ways, errors in found.errors.items():
        worst = "; ".join(f"{', '.join(clique)}: {error:.3f}" for clique, error in found.worst(ways, 3))
        lines.append([f"{ways}-way", str(len(errors)), f"{found.mean(ways):.4f}", worst])
    show_table(["marginals", "compared", "mean error", "worst"], lines)
    if found.scores:
        click.echo(f"\nPredicting {found.target}: gradient boosting, tested on held-out real rows")
        rows = [[name, f"{scores.auc:.3f}", f"{scores.accuracy:.3f}"] for name, scores in found.scores.items()]
        show_table(["trained on", "AUC", "accuracy"], rows)
