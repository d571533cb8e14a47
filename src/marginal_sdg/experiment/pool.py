"""Run tasks in worker processes that the parent can lose, one BLAS thread each.

Workers are spawned, not forked, hold one task at a time, and only send messages: the parent alone writes
results. A worker that dies (out of memory, killed) fails its task; a fresh one takes its place. A task may
say "ready" when the data that it shares with others is prepared: until then tasks with the same key wait,
because they would prepare the same data a second time.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from marginal_sdg.experiment.grid import Run

Event = dict[str, Any]
Work = Callable[[Run, Callable[[Event], None]], dict[str, Any]]
# kind: "event" (payload an event), "done" (payload a row), "failed" (payload {"error", "trace"})
OnMessage = Callable[[Run, str, dict[str, Any]], None]

READY = "ready"
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def run_all(runs: Sequence[Run], work: Work, on_message: OnMessage, *, workers: int) -> None:
    """Do all runs; ``on_message`` is called in this process. ``workers=0`` works here, without processes."""
    if workers == 0:
        for run in runs:
            kind, payload = attempt(work, run, partial(on_message, run, "event"))
            on_message(run, kind, payload)
        return
    pool = _Pool(list(runs), work, on_message)
    try:
        pool.loop(min(workers, len(runs)))
    finally:
        pool.stop()


def attempt(work: Work, run: Run, emit: Callable[[Event], None]) -> tuple[str, dict[str, Any]]:
    """Do one run: ("done", its row) or ("failed", why)."""
    try:
        return "done", work(run, emit)
    except (BrokenPipeError, EOFError):  # the parent is gone: nobody to tell
        raise
    except Exception as error:  # a failed run must not stop the others
        text = " ".join(str(error).split()) or "no message"
        return "failed", {"error": f"{type(error).__name__}: {text}", "trace": traceback.format_exc()}


def _serve(connection: Connection, work: Work) -> None:
    """A worker: take a run, send its events and its result, until told to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    try:
        while (run := connection.recv()) is not None:
            connection.send(attempt(work, run, lambda event: connection.send(("event", event))))
    except (BrokenPipeError, ConnectionResetError, EOFError):
        return


@contextmanager
def _for_children() -> Iterator[None]:
    """What a child inherits: one BLAS thread, set before it imports numpy, and no Ctrl-C while it starts."""
    added = [name for name in THREADS if name not in os.environ]
    os.environ.update(dict.fromkeys(added, "1"))
    resource_tracker.ensure_running()  # the first child starts it, which would let Ctrl-C in again
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for name in added:
            del os.environ[name]


@dataclass
class _Worker:
    process: SpawnProcess
    connection: Connection
    run: Run | None = None


@dataclass
class _Pool:
    waiting: list[Run]
    work: Work
    on_message: OnMessage
    workers: list[_Worker] = field(default_factory=list)
    preparing: set[str] = field(default_factory=set)
    prepared: set[str] = field(default_factory=set)

    def loop(self, size: int) -> None:
        for _ in range(size):
            self._start()
        while self.waiting or any(worker.run for worker in self.workers):
            self._hand_out()
            busy = {worker.connection: worker for worker in self.workers if worker.run}
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                self._receive(busy[connection])

    def stop(self) -> None:
        for worker in self.workers:
            if worker.run is None:
                self._tell(worker, None)
            else:
                worker.process.terminate()
        for worker in self.workers:
            worker.process.join(timeout=5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.connection.close()
        self.workers.clear()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self.work), daemon=True)
        with _for_children():
            process.start()
        theirs.close()
        self.workers.append(_Worker(process, ours))

    def _hand_out(self) -> None:
        for worker in [worker for worker in self.workers if worker.run is None]:
            run = next((run for run in self.waiting if run.data_key not in self.preparing), None)
            if run is None:
                return
            self.waiting.remove(run)
            if run.data_key not in self.prepared:
                self.preparing.add(run.data_key)
            worker.run = run
            self._tell(worker, run)

    @staticmethod
    def _tell(worker: _Worker, run: Run | None) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it died: the next receive sees that
            worker.connection.send(run)

    def _receive(self, worker: _Worker) -> None:
        run = worker.run
        assert run is not None
        try:
            kind, payload = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            kind, payload = "failed", self._replace(worker)
        if kind == "event" and payload["event"] == READY:
            self._prepared(run)
            return
        if kind == "done":
            self._prepared(run)
        if kind != "event":
            self.preparing.discard(run.data_key)
            worker.run = None
        self.on_message(run, kind, payload)

    def _prepared(self, run: Run) -> None:
        self.preparing.discard(run.data_key)
        self.prepared.add(run.data_key)

    def _replace(self, worker: _Worker) -> dict[str, Any]:
        """Put a new worker in the place of a dead one; the failure that its run gets."""
        worker.process.join()
        worker.connection.close()
        self.workers.remove(worker)
        code = worker.process.exitcode
        if self.waiting:
            self._start()
        reason = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with code {code}"
        return {"error": f"the worker process {reason} (out of memory?); try fewer --workers", "trace": ""}
