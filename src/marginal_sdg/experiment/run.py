"""One run: data, partition, fit, synthetic rows, metrics; a row of results."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from marginal_sdg.crypto.traffic import COLUMNS as TRAFFIC
from marginal_sdg.experiment.grid import Run
from marginal_sdg.experiment.params import CTGANS, OF_DISTAIM, OF_FHAIM, OF_FLAIM, OF_ONE_TABLE, VARIANTS, RunParams
from marginal_sdg.experiment.pool import READY

if TYPE_CHECKING:
    from marginal_sdg.domain import Domain
    from marginal_sdg.encoding import Table
    from marginal_sdg.estimator import Estimator
    from marginal_sdg.workload import Workload

Emit = Callable[[dict[str, Any]], None]
PURPOSES = ("split", "partition", "workload", "noise", "rows")


def run_one(run: Run, emit: Emit) -> dict[str, Any]:
    """Do one run; ``emit`` is told when the data is ready, of every round, and of the ledger in the end.

    Returns the columns of runs.csv that come from the run itself. ``seconds_total`` is training and sampling.
    """
    import marginal_sdg.fhaim  # noqa: F401 - imported before the clock starts, with all other estimators

    params, seeds = run.params, seeds_of(run)
    emit({"event": "begin"})
    data = _data_of(run, seeds)
    clients = _clients(run, data, seeds["partition"])
    workload = make_workload(params, data.train.domain, seeds["workload"])
    emit({"event": READY})
    _reset_peak_memory()
    start = time.perf_counter()
    synthesizer: Any = make_synthesizer(params, workload, seed=seeds["noise"], on_event=emit)
    records: Any = data.train if clients is None else clients  # AIM takes one table, FLAIM a list
    synthesizer.fit(records)
    synthetic = synthesizer.sample_table(len(data.train), seed=seeds["rows"])
    seconds = time.perf_counter() - start
    peak = _peak_memory_mb()
    emit({"event": "ledger", "ledger": synthesizer.ledger.to_dict()})
    traffic = {} if clients is None else synthesizer.communication_
    encryption = getattr(synthesizer, "encryption_", None)
    return {
        **params.model_dump(),
        **_metrics(params, data, workload, synthesizer, synthetic, seeds["rows"]),
        "train_rows": len(data.train),
        "test_rows": len(data.test),
        "synthetic_rows": len(synthetic),
        "rounds_done": synthesizer.rounds_,
        "rho_spent": float(synthesizer.ledger.spent),
        "sigma": synthesizer.sigma_,
        **{name: traffic.get(name) for name in TRAFFIC},
        "seconds_total": seconds,
        **{f"seconds_{phase}": synthesizer.timings_[phase] for phase in ("select", "measure", "generate")},
        **({} if encryption is None else asdict(encryption)),
        "peak_rss_mb": peak,
        "privacy": privacy_of(synthesizer.ledger.caveats),
    }


def seeds_of(run: Run) -> dict[str, int]:
    """One independent seed per purpose from the run's seed; a seed fixed in the config replaces its own."""
    children = np.random.SeedSequence(run.seed).spawn(len(PURPOSES))
    drawn = [int(child.generate_state(1, np.uint32)[0]) for child in children]
    seeds = dict(zip(PURPOSES, drawn, strict=True))
    for purpose in ("split", "partition", "workload"):
        fixed = getattr(run.params, f"{purpose}_seed")
        if isinstance(fixed, int):
            seeds[purpose] = fixed
    return seeds


def privacy_of(caveats: tuple[str, ...]) -> str:
    """The label of a result: "yes", "paper calibration" (not what it claims) or "NOT PRIVATE"."""
    lowered = [caveat.lower() for caveat in caveats]
    if any(caveat.startswith("not private") for caveat in lowered):
        return "NOT PRIVATE"
    return "paper calibration" if any("paper calibration" in caveat for caveat in lowered) else "yes"


@dataclass(frozen=True)
class _Data:
    train: Table
    test: Table
    target: str | None
    owner: npt.NDArray[np.int64] | None  # client of each training row, where the data set brings its clients


@lru_cache(maxsize=2)
def _data(params: RunParams, split_seed: int, skew_seed: int) -> _Data:
    """The training and test rows, kept for the worker's next runs.

    ``params`` has only what matters here (see ``_data_of``); the seeds are spelt out.
    """
    from marginal_sdg.datasets import load_dataset, split, split_rows, synthfs

    if params.dataset == "synthfs":
        assert params.clients is not None and params.feature_skew is not None
        table, owner = synthfs(params.clients, beta=params.feature_skew, seed=skew_seed)
        rows, others = split_rows(len(table), 0.9, split_seed)
        return _Data(table.take(rows), table.take(others), None, owner[rows])
    loaded = load_dataset(params.dataset)
    train, test = split(loaded.table(), 0.9, split_seed)
    if params.max_rows is not None and params.max_rows < len(train):
        train = train.take(np.arange(params.max_rows))  # the split has shuffled them
    return _Data(train, test, loaded.target, None)


def _data_of(run: Run, seeds: dict[str, int]) -> _Data:
    generated = run.params.dataset == "synthfs"
    names = ("clients", "feature_skew") if generated else ("max_rows",)
    params = {"dataset": run.params.dataset} | {name: getattr(run.params, name) for name in names}
    return _data(RunParams.model_construct(**params), seeds["split"], seeds["partition"] if generated else 0)


def _clients(run: Run, data: _Data, seed: int) -> list[Table] | None:
    """The training rows of each client; None where one curator has them all."""
    from marginal_sdg.datasets import partition

    if run.params.method in OF_ONE_TABLE:
        return None
    owner = data.owner
    if owner is None:
        assert run.params.clients is not None and run.params.partition is not None
        owner = partition(data.train, run.params.clients, run.params.partition, seed, data.target)
    return [data.train.take(np.flatnonzero(owner == client)) for client in range(run.params.clients or 0)]


def make_synthesizer(params: RunParams, workload: Workload, **others: Any) -> Estimator:
    """The estimator that a cell's parameters describe; ``others`` are its remaining arguments."""
    from marginal_sdg.baselines.mwem import MWEM
    from marginal_sdg.federations import FLAIM, DistAIM
    from marginal_sdg.fhaim import FHAIM
    from marginal_sdg.synthesizers import AIM

    names = ("epsilon", "delta", "rounds", "gaussian_share", "calibration", "generator", "max_model_mb")
    options = ("records_per_person", "participation", "client_level", *OF_FLAIM, *OF_DISTAIM, *OF_FHAIM)
    values = {name: getattr(params, name) for name in (*names, *options)}  # None: the estimator's own default
    arguments = {name: value for name, value in values.items() if value is not None} | others
    if params.method in CTGANS:
        return _make_ctgan(params, workload.domain, **others)
    if params.method in VARIANTS:
        return FLAIM(workload.domain, workload=workload, variant=VARIANTS[params.method], **arguments)
    kinds: dict[str, type[AIM | DistAIM | FHAIM]] = {"AIM": AIM, "MWEM+PGM": MWEM, "DistAIM": DistAIM, "FHAIM": FHAIM}
    return kinds[params.method](workload.domain, workload=workload, **arguments)


def _make_ctgan(params: RunParams, domain: Domain, **others: Any) -> Estimator:
    from marginal_sdg.baselines.ctgan import DPCTGAN, FedDPCTGAN

    values = {name: getattr(params, name) for name in ("epsilon", "delta", "participation", "epochs")}
    arguments = {name: value for name, value in values.items() if value is not None} | others
    return (DPCTGAN if params.method == "DP-CTGAN" else FedDPCTGAN)(domain, **arguments)


def make_workload(params: RunParams, domain: Domain, seed: int) -> Workload:
    """The marginals that a cell's metrics are about."""
    from marginal_sdg.workload import Workload

    return Workload.random(domain, params.workload_queries, params.workload_ways, seed)


def _metrics(
    params: RunParams, data: _Data, workload: Workload, synthesizer: Any, synthetic: Table, seed: int
) -> dict[str, float | None]:
    from marginal_sdg.metrics import classifier_scores, kde_nll, nll, workload_error

    classified: dict[str, float] = {}
    if params.with_auc and data.target:
        classified = classifier_scores(synthetic, data.test, data.target)._asdict()
    density = {}
    if params.method in CTGANS:  # as their paper does
        density = {"nll_kde": kde_nll(synthesizer.sample_table(10 * len(data.test), seed=seed), data.test)}
    error = workload_error(data.train, synthetic, workload)
    return {"workload_error": error, "nll": nll(synthesizer.model_, data.test), **density, **classified}


def _reset_peak_memory() -> None:
    """Forget earlier runs of this process, where the system can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory_mb() -> float:
    with contextlib.suppress(OSError, ValueError, IndexError):
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
