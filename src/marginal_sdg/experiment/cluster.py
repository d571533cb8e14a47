"""Where a sweep's runs are done: the worker processes of this machine, or a Dask or Ray cluster.

On a cluster a run is one task with one future, so its row is written once, by this process, however often the engine
repeats the task: both repeat the run of a lost worker three times and then fail that run alone. A run's events come
with its result. The package must be installed on the machines of a cluster, in this version.

joblib, whose backends would serve for all of this, is not between: its Dask backend returns nothing before all runs are
done, which a killed sweep would lose, and ``Parallel`` drops the other runs when one is lost. For the same reason one
machine keeps its own pool: with loky a worker that dies ends the whole call.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import marginal_sdg
from marginal_sdg.errors import ConfigError
from marginal_sdg.experiment.grid import Run
from marginal_sdg.experiment.pool import Event, OnMessage, Work, attempt, run_all

LOCAL = "local"
PATIENT = {
    "distributed.deploy.lost-worker-timeout": "1h",  # of a cluster that would close workers which restart slowly
    "distributed.scheduler.worker-saturation": 1.0,  # no run waits at a worker, to be blamed for the death of another
}

DoAll = Callable[[Sequence[Run], Work, OnMessage], None]
Played = tuple[str, dict[str, Any], list[Event]]
Submit = Callable[..., "Future[Played]"]


def check_backend(backend: str, workers: int) -> None:
    """Raise ConfigError unless ``backend`` is "local", or "dask" or "ray" with or without ":address"."""
    engine = backend.partition(":")[0]
    if backend != LOCAL and engine not in ENGINES:
        raise ConfigError(
            f"--backend {backend} is not known; give local, dask, ray, or an address as in dask:tcp://host:8786"
        )
    if backend != LOCAL and workers == 0:
        raise ConfigError(f"--workers 0 runs in this process, which --backend {engine} does not; give 1 or more")
    if backend != LOCAL and find_spec(ENGINES[engine][0]) is None:
        raise ConfigError(f"--backend {engine} needs a package that is not here; pip install 'marginal-sdg[{engine}]'")


@contextmanager
def workforce(backend: str, workers: int) -> Iterator[DoAll]:
    """A function that does all runs. ``workers``: processes on this machine; a cluster at an address has its own."""
    if backend == LOCAL:
        yield partial(run_all, workers=workers)
        return
    engine, _, address = backend.partition(":")
    with ENGINES[engine][1](address, workers) as submit:
        yield partial(_do_all, submit)


def _do_all(submit: Submit, runs: Sequence[Run], work: Work, on_message: OnMessage) -> None:
    futures = {submit(_play, work, marginal_sdg.__version__, run): run for run in runs}
    for future in as_completed(futures):
        run = futures[future]
        try:
            kind, payload, events = future.result()
        except Exception as error:  # the engine's, after its repetitions
            reason = (" ".join(str(error).split()) or "no reason given").split(". ")[0]
            kind, payload, events = "failed", {"error": f"lost by the cluster: {reason}", "trace": ""}, []
        for event in events:
            on_message(run, "event", event)
        on_message(run, kind, payload)


def _play(work: Work, version: str, run: Run) -> Played:
    """One run, at a worker."""
    if marginal_sdg.__version__ != version:
        raise RuntimeError(f"a worker has marginal_sdg {marginal_sdg.__version__} where {version} is needed")
    events: list[Event] = []
    kind, payload = attempt(work, run, events.append)
    return kind, payload, events


@contextmanager
def _dask(address: str, workers: int) -> Iterator[Submit]:
    import dask
    from distributed import Client, LocalCluster

    if not address:
        with (
            dask.config.set(PATIENT),
            LocalCluster(n_workers=workers, threads_per_worker=1, memory_limit=0, dashboard_address=None) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            yield client.get_executor(pure=False).submit
        return
    try:
        client = Client(address, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--backend dask:{address}: no scheduler answers there ({error})") from None
    with client:
        if any(threads > 1 for threads in client.nthreads().values()):
            raise ConfigError(
                f"--backend dask:{address}: has workers with several threads, which would mix up the times and the "
                "memory of runs; start them with --nthreads 1"
            )
        yield client.get_executor(pure=False).submit


@contextmanager
def _ray(address: str, workers: int) -> Iterator[Submit]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    paths = [str(Path(marginal_sdg.__file__).parents[1]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    here = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}  # of a checkout that is not installed
    place: dict[str, Any] = (
        {"address": address} if address else {"num_cpus": workers, "runtime_env": {"env_vars": here}}
    )
    try:
        ray.init(**place, include_dashboard=None if address else False, log_to_driver=False, logging_level="error")
    except (ConnectionError, ValueError) as error:
        raise ConfigError(f"--backend ray:{address}: no cluster answers there ({error})") from None
    try:
        play = ray.remote(_play).options(max_retries=3)
        yield lambda _, *arguments: play.remote(*arguments).future()
    finally:
        ray.shutdown()


ENGINES: dict[str, tuple[str, Callable[[str, int], AbstractContextManager[Submit]]]] = {
    "dask": ("distributed", _dask),
    "ray": ("ray", _ray),
}
