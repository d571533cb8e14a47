"""Our engine against the private-pgm package, from its own potentials."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from marginal_sdg.encoding import Table
from marginal_sdg.generators.pgm import PGM
from marginal_sdg.marginals import cell_numbers, contingency
from marginal_sdg.release import Measurement

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    mbi = pytest.importorskip("mbi", reason="needs the extra marginal-sdg[mbi]")

pytestmark = pytest.mark.filterwarnings("ignore")

CLIQUES = [("a", "b"), ("b", "c"), ("c", "d"), ("a", "d")]


def test_marginals_equal_those_of_mbi_for_the_same_potentials(domain):
    from marginal_sdg.generators.mbi import double_precision
    from marginal_sdg.graphical.model import GraphicalModel

    rng = np.random.default_rng(0)
    theta = {q: rng.normal(0, 2, domain.size(q)) for q in CLIQUES}
    ours = GraphicalModel(domain, theta, 100.0)
    with double_precision():
        peers = mbi.Domain(domain.names, domain.shape)
        vector = mbi.CliqueVector.zeros(peers, CLIQUES)
        for q, values in theta.items():
            vector[q] = mbi.Factor(peers.project(q), values.reshape([domain.size((n,)) for n in q]))
        marginals = mbi.marginal_oracles.message_passing_stable(vector, 100.0)
        for q in CLIQUES:
            np.testing.assert_allclose(ours.marginal(q), np.asarray(marginals.project(q).values), rtol=1e-6)


@pytest.mark.slow
def test_without_ridge_both_generators_find_the_same_least_squares_fit(domain, table, monkeypatch):
    from marginal_sdg.generators import pgm
    from marginal_sdg.generators.mbi import MBI

    monkeypatch.setattr(pgm, "RIDGE", 1e-2)
    monkeypatch.setattr(pgm, "BEND", 1e4)
    monkeypatch.setattr(pgm, "FINAL_GAP", 1e-9)
    every_cell = np.indices(domain.shape).reshape(len(domain), -1).T.repeat(10, axis=0)
    full = Table(domain, np.concatenate([table.codes, every_cell.astype(np.int32)]))  # no empty cell: no projection
    rng = np.random.default_rng(1)
    noisy = [
        Measurement(q, contingency(full, q) + np.rint(rng.normal(0, 3, domain.size(q))).astype(np.int64), 3.0)
        for q in CLIQUES
    ]
    ours, theirs = (generator(domain).fit(noisy, float(len(full)), final=True) for generator in (PGM, MBI))
    for q in CLIQUES:
        np.testing.assert_allclose(ours.marginal(q), theirs.marginal(q), atol=0.05)


@pytest.mark.slow
def test_a_model_of_adult_has_the_marginals_and_likelihoods_that_mbi_computes():
    from marginal_sdg import AIM, load_dataset
    from marginal_sdg.generators.mbi import double_precision

    adult = load_dataset("adult")
    records = adult.table()
    ours = AIM(adult.domain, seed=0).fit(records).model_
    with double_precision():
        peers = mbi.Domain(adult.domain.names, adult.domain.shape)
        vector = mbi.CliqueVector.zeros(peers, list(ours.cliques))
        for q, theta in ours.potentials.items():
            vector[q] = mbi.Factor(peers.project(q), theta.reshape([adult.domain.size((n,)) for n in q]))
        marginals = mbi.marginal_oracles.message_passing_stable(vector, ours.total)
        theirs = {q: np.asarray(marginals.project(q).values, dtype=np.float64) for q in ours.cliques}
    for q, values in theirs.items():
        np.testing.assert_allclose(ours.marginal(q), values, rtol=1e-6, atol=1e-6)
    # p(x) of a junction tree: its nodes' marginals over its separators', all of them by mbi's numbers where it has them
    tree, names = ours.tree, adult.domain.names
    some = records.take(np.arange(500))
    log = np.zeros(500)
    for masks, sign in ((tree.nodes, 1), (tree.separators, -1)):
        for mask in masks:
            clique = tuple(name for i, name in enumerate(names) if mask >> i & 1)
            if clique:
                table = theirs[clique].ravel() if clique in theirs else ours.marginal(clique).ravel()
                log += sign * np.log(table[cell_numbers(some, clique)] / ours.total)
    np.testing.assert_allclose(ours.log_likelihood(some), log, rtol=1e-6)
