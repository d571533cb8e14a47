"""The sections of a report on one fitted synthesizer, in words, tables and pictures."""

from __future__ import annotations

import math

from marginal_sdg.evaluation import Evaluation
from marginal_sdg.page import Bar, Page
from marginal_sdg.report.facts import Facts, Measured
from marginal_sdg.report.heatmap import differences, heat_maps
from marginal_sdg.report.histogram import histogram
from marginal_sdg.report.tree import tree_picture
from marginal_sdg.report.trust import ASSUMING, NOT_PROMISED

_UNFOLDED = 16  # histograms, marginals or tables of the tree that are shown at once
_SIMILARITY = (
    "How similar synthetic rows are to real ones says nothing about privacy: that is what the section on privacy says, "
    "and nothing else."
)


def report_page(facts: Facts) -> Page:
    """All sections."""
    page = Page(f"Synthetic data by {facts.mechanism}")
    if facts.utility is not None:
        page.notice(
            "NOT PRIVATE, FOR THE HOLDER OF THE TABLE ONLY.",
            "This report shows exact facts of the real rows, which no budget has paid for. Keep it with the data; "
            "release the one that is made without the real table.",
            "bad",
        )
    page.cards(_cards(facts))
    for section in (_privacy, _utility, _columns, _model, _time, _recipe):
        section(page, facts)
    return page


def _cards(facts: Facts) -> list[tuple[str, str]]:
    spending = facts.spending
    promise = "none" if spending.void else f"({spending.epsilon:g}, {spending.delta:g})"
    cards = [
        ("privacy, (epsilon, delta)", promise),
        ("records of the model", f"{facts.records:,.0f}"),
        ("columns", f"{len(facts.columns):,}"),
        ("marginals measured", f"{len(facts.measured):,}"),
    ]
    if facts.utility is not None:
        ways = max(facts.utility.errors)
        cards.append((f"mean {ways}-way error", f"{facts.utility.mean(ways):.4f}"))
        cards += [(f"AUC, trained on {name}", _score(s.auc)) for name, s in facts.utility.scores.items()]
    return cards


def _privacy(page: Page, facts: Facts) -> None:
    spending, trust = facts.spending, facts.trust
    page.heading("Privacy")
    if not spending.private:
        page.notice("NOT PRIVATE.", "Exact values are used outside the ledger: nothing is promised.", "bad")
    elif spending.void:
        page.notice("The promise below is void as it stands.", "The caveats say why.", "bad")
    elif spending.caveats:
        page.notice("The promise below holds with caveats only.", "Read them.", "warn")
    else:
        page.notice("Private.", f"({spending.epsilon:g}, {spending.delta:g})-differential privacy, no caveats.", "good")
    if spending.epsilon is not None and spending.best_guess is not None:
        who = "one record" if spending.group == 1 else f"one person's records ({spending.group} at most)"
        page.text(
            f"In words: with or without {who}, no outcome of the release is likelier than {_factor(spending.epsilon)} "
            f"times what it is otherwise, plus {spending.delta:g}. Somebody who knows the rest of the table, and gives "
            f"even odds to {who} being in it, guesses right from the release with probability "
            f"{spending.best_guess:.1%} at most; a coin does with 50%."
        )
    spending.write(page)
    page.table(
        ["trust model", facts.mechanism],
        [
            ["where the data are", trust.data],
            ["who adds the noise", trust.noise],
            ["protected", trust.protected if spending.private else "nobody: exact values are used"],
        ],
        "Who holds what, and what is protected from whom.",
    )
    page.heading("Assuming", level=3).items([*trust.assuming, *ASSUMING])
    page.heading("What is not promised", level=3).items([*trust.not_promised, *NOT_PROMISED])


def _utility(page: Page, facts: Facts) -> None:
    page.heading("Utility")
    page.text(_SIMILARITY)
    found = facts.utility
    if found is None:
        page.text(
            "Errors against the real rows are facts of the real rows, so they are not in this report; its holder gets "
            "them in one that is made with the real table. What follows is computed from the release alone."
        )
    else:
        page.notice("NOT PRIVATE.", "Errors, scores and real associations are exact facts of the real rows.", "bad")
        _errors(page, found)
        _classifiers(page, found)
    if facts.associations is not None:
        among = facts.associations.among
        of = f"{'the first ' if among < len(facts.columns) else ''}{among} columns"
        shown = len(facts.associations.columns)
        page.heading("Associations between columns", level=3)
        page.text(
            "Cramér's V of each pair: 0 for independent columns, 1 where one determines the other. "
            + (f"Shown are the {shown} most associated of {of}. " if shown < among else "")
            + f"Computed from {facts.associations.rows:,} rows{' of each table' if found is not None else ''}."
        )
        page.gallery(heat_maps(facts.associations))
        if found is not None:
            page.text(differences(facts.associations))


def _errors(page: Page, found: Evaluation) -> None:
    rows = [
        [f"{ways}-way ({len(errors)})", f"{found.mean(ways):.4f}", Bar(f"{worst:.4f}", worst / 2), ", ".join(clique)]
        for ways, errors in found.errors.items()
        for clique, worst in found.worst(ways, 1)
    ]
    page.table(
        ["marginals", "mean error", "largest error", "where"],
        rows,
        "L1 distance of normalised marginals (how many), synthetic against real: 0 for the same, 2 for disjoint ones.",
    )
    for ways in found.errors:
        worst = [[", ".join(c), Bar(f"{error:.4f}", error / 2)] for c, error in found.worst(ways, 10)]
        page.details(f"Worst {ways}-way marginals", Page("").table(["marginal", "error"], worst, "Largest first."))


def _classifiers(page: Page, found: Evaluation) -> None:
    page.heading("A classifier's view", level=3)
    if not found.scores:
        page.text(
            "No classifier was compared: it takes a target column with categories, and enough rows to hold some out."
        )
        return
    rows = [
        [f"{name} rows", Bar(_score(s.auc), 2 * s.auc - 1, name == "real"), _score(s.accuracy)]
        for name, s in found.scores.items()
    ]
    caption = (
        f"Gradient boosting that predicts {found.target}, tested on real rows that it was not trained on. An AUC of "
        "0.5, where bars begin, is a guess, and 1 is perfect. But the synthetic rows were made from all real rows, "
        "tested ones too."
    )
    page.table(["trained on", "AUC", "accuracy"], rows, caption)


def _columns(page: Page, facts: Facts) -> None:
    compared = facts.utility is not None
    page.heading("Columns")
    if compared:
        page.notice("NOT PRIVATE.", "Real shares and errors are exact facts of the real rows.", "bad")
    page.key([("synthetic", "synthetic"), *([("real", "real")] if compared else [])])
    page.text(
        f"Shares of {facts.synthetic_rows:,} synthetic rows. Whiskers are one standard deviation of the privacy noise "
        "in the column's own measurements" + ("; errors are L1 distances to the real shares." if compared else ".")
    )
    inner = Page("").gallery([histogram(column) for column in facts.columns])
    many = len(facts.columns)
    page.details(f"Distributions of {many} columns", inner, unfolded=many <= _UNFOLDED)


def _model(page: Page, facts: Facts) -> None:
    page.heading("Model")
    if facts.tree:
        largest = max(node.cells for node in facts.tree)
        page.text(
            f"A graphical model of {len(facts.cliques)} marginals. Its junction tree has {len(facts.tree)} tables with "
            f"{sum(node.cells for node in facts.tree):,} cells, the largest with {largest:,}."
        )
        inner = Page("").wide(tree_picture(facts.tree))
        page.details("Junction tree", inner, unfolded=len(facts.tree) <= _UNFOLDED)
    else:
        page.text("The model is a mixture of products, without cliques.")
    rows = [[", ".join(m.columns), f"{m.cells:,}", _sigma(m), f"{m.noise:.3g}"] for m in facts.measured]
    table = Page("").table(
        ["marginal", "cells", "sigma", "noise"],
        rows,
        "In the order of measurement. Sigma: standard deviation of the noise in a cell, records. Noise: expected L1 "
        "distance that it makes in the normalised marginal, before the model averages it.",
    )
    page.details(f"{len(rows)} measured marginals", table, unfolded=len(rows) <= _UNFOLDED)


def _time(page: Page, facts: Facts) -> None:
    page.heading("Time")
    if facts.seconds is None:
        page.text("Running times depend on the private rows; they are in the report with the real table only.")
        return
    rows = [[name, f"{seconds:.2f}"] for name, seconds in facts.seconds.items()]
    rows.append(["together", f"{sum(facts.seconds.values()):.2f}"])
    page.table(
        ["phase", "seconds"], rows, "Wall time of the fit. It can tell the size of the table, and is not private."
    )


def _recipe(page: Page, facts: Facts) -> None:
    recipe = facts.recipe
    page.heading("How to reproduce")
    page.text("Made with " + ", ".join(f"{name} {version}" for name, version in recipe.versions.items()) + ".")
    if recipe.seeded:
        page.text("With the seed below the same table gives the same release. Who knows the seed knows the noise.")
    else:
        page.text("The same steps give a release with fresh noise, at the same cost again: no seed was used.")
    if recipe.command is not None:
        page.code(recipe.command)
    page.code(recipe.code)
    inner = Page("").table(["parameter", "value"], list(recipe.settings.items()), "As given, or by default.")
    page.details("All parameters", inner)
    page.details("domain.yaml, the declared columns", Page("").code(recipe.domain))


def _factor(epsilon: float) -> str:
    return f"e^{epsilon:g}" + (f" = {math.exp(epsilon):.3g}" if epsilon < 20 else "")


def _score(score: float) -> str:
    return "undefined" if math.isnan(score) else f"{score:.3f}"


def _sigma(measured: Measured) -> str:
    if not measured.public:
        return f"{measured.sigma:.4g}"
    return f"{measured.sigma:.4g}, known" if measured.sigma else "known exactly"
