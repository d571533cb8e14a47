"""What a user may write; the type checker reads it in strict mode, nothing runs it."""

from __future__ import annotations

import datetime as dt

import pandas as pd

from marginal_sdg import AIM, Attribute, Budget, Domain, GraphicalModel, Ledger, Workload, draft_domain, load_dataset
from marginal_sdg.errors import BudgetError


def release(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, float]:
    """Fit, look at a marginal, sample."""
    domain = Domain(
        (
            Attribute("age", lower=18, upper=99, integer=True),
            Attribute("since", lower=dt.date(2000, 1, 1), upper=dt.date(2029, 12, 31), bins=30),
            Attribute("job", categories=("cook", "nurse", "other"), other="other", missing="category"),
        )
    )
    workload = Workload(domain, (("age", "job"),), (2.0,)).covering().favouring("job")
    aim: AIM = AIM(domain, epsilon=1.0, workload=workload).set_params(rounds="adaptive").fit(frame)
    model: GraphicalModel = aim.model_
    nurses: float = model.given({"job": [1]}).total
    return aim.sample(rows=100), aim.marginal(["age", "job"]), nurses


def informed(frame: pd.DataFrame, census: pd.DataFrame) -> pd.DataFrame:
    """Use what is public already, and let bins adapt."""
    domain = Domain(
        (Attribute("age", edges=(0, 18, 65, 120), integer=True), Attribute("pay", lower=0, upper=9, bins=900))
    )
    shares = pd.Series([0.2, 0.6, 0.2], index=pd.Index(["0..17", "18..64", "65..120"], name="age"))
    aim = AIM(domain, known=[shares, census], impossible=["age < 18 and pay > 5"])
    aim.check()
    adaptive = AIM(domain, adaptive_bins={"pay": 16}, bins_share=0.05).fit(frame)
    return pd.concat([aim.fit(frame).sample(9), adaptive.sample(9)])


def spent(epsilon: float) -> float:
    """The epsilon of one of the shipped tables, as the ledger has it."""
    adult = load_dataset("adult")
    try:
        budget = Budget(epsilon, 1e-5)
    except BudgetError:
        return 0.0
    ledger: Ledger = AIM(adult.domain, epsilon=budget.epsilon).fit(adult.frame).ledger
    return ledger.epsilon()


def draft(frame: pd.DataFrame) -> tuple[str, ...]:
    """What a draft read off a table."""
    return draft_domain(frame).notes
