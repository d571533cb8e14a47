"""``audit``: a short canary audit of the installed library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


@click.command()
@click.option("--epsilon", type=float, default=1.0, show_default=True, help="The budget under audit.")
@click.option("--delta", type=float, default=1e-2, show_default=True, help="Of (epsilon, delta).")
@click.option("--runs", type=click.IntRange(20, 100_000), default=300, show_default=True, help="In each of two worlds.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the games.")
def audit(epsilon: float, delta: float, runs: int, seed: int) -> int:
    """Play a canary game against this installation: can an auditor tell whether one record was there?

    Exit code 1 where a lower bound on the privacy loss exceeds its claim. The planted fault, with a quarter of the
    noise's variance, shows what the auditor can see in so many runs.
    """
    from fractions import Fraction
    from functools import partial

    from marginal_sdg.experiment.canary import Game
    from marginal_sdg.experiment.progress import show_table
    from marginal_sdg.privacy.audit import CONFIDENCE, Skimping, judge, play_measure, play_select
    from marginal_sdg.privacy.budget import Budget
    from marginal_sdg.privacy.ledger import Ledger

    class QuarterVariance(Skimping):
        variance_factor = Fraction(1, 4)

    budget = Budget(epsilon, delta)

    def play_aim(runs: int, seed: int) -> tuple[Any, Any]:
        low, high = Game("AIM", budget).play(runs, seed)
        return low[:, 0], high[:, 0]

    games: dict[str, Callable[[int, int], tuple[Any, Any]]] = {
        "Measure": partial(play_measure, Ledger, budget),
        "Select": partial(play_select, Ledger, budget),
        "AIM, whole fits": play_aim,
        "planted: sigma / 2": partial(play_measure, QuarterVariance, budget),
    }
    lines, flagged = [], False
    for number, (name, play) in enumerate(games.items()):
        without, present = play(runs, seed + number)
        found = judge(without, present, budget)
        planted = name.startswith("planted")
        flagged |= found.flagged and not planted
        verdict = "exceeds its claim" if found.flagged else "seen nothing" if planted else "within its claim"
        numbers = [f"{value:.3f}" for value in (found.claimed_mu, found.mu, found.mu_low, found.epsilon_low)]
        lines.append([name, *numbers, verdict])
    click.echo(f"epsilon {epsilon:g}, delta {delta:g}; {runs} runs in each world; bounds hold at {CONFIDENCE:.1%}")
    show_table(["game", "claimed mu", "estimate", "lower bound", "epsilon at least", "verdict"], lines)
    return int(flagged)
