"""Speed: benchmarks of the library's operations, and a gate that fails when one of them becomes slower.

Benchmarks (pytest-benchmark): an ordinary ``pytest`` only runs each operation once; to time them, ask for it.

    pytest tests/bench --benchmark-only

The gate compares *ratios*, so that one set of numbers serves every machine: the CPU seconds of an operation over those
of a reference kernel that is slow where the operation is slow (many small arrays, or a few large ones). The committed
ratios are in ``ratios.json``; an operation that is more than ``SLACK`` times slower than its ratio fails. After a
change of speed that is meant, write new ratios on a quiet machine and commit them with the change:

    python tests/bench/test_speed.py

Why it does not flake: CPU seconds leave out the time in which other processes have the core; operations and kernels
alternate, so that both meet the same clock rate and the same neighbours; of several repetitions the least disturbed one
counts; and an operation above its limit is measured again, up to ``ATTEMPTS`` times, before the test fails:
disturbance passes, a slower operation stays slow.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from marginal_sdg import AIM, Domain
from marginal_sdg.backends.base import PublicState
from marginal_sdg.backends.plaintext import PlaintextBackend
from marginal_sdg.encoding import Table
from marginal_sdg.generators.pgm import PGM
from marginal_sdg.graphical.model import GraphicalModel
from marginal_sdg.privacy.ledger import Ledger
from marginal_sdg.privacy.noise import Source
from marginal_sdg.schedule import Step
from marginal_sdg.workload import Workload

RATIOS = Path(__file__).with_name("ratios.json")
SLACK = 1.75
REPEATS = 3
CHUNK = 0.01  # seconds
ATTEMPTS = 5

ADULT = (85, 9, 100, 16, 7, 15, 6, 5, 2, 100, 100, 99, 42, 2)
ROWS = 44_000

Operation = Callable[[], object]


def adult_sized() -> Table:
    """Each attribute follows its predecessor in four records of five and is skewed noise in the fifth."""
    rng = np.random.default_rng(0)
    codes = np.empty((ROWS, len(ADULT)), dtype=np.int32)
    codes[:, 0] = ADULT[0] * rng.random(ROWS) ** 2
    for j in range(1, len(ADULT)):
        noise = (ADULT[j] * rng.random(ROWS) ** 3).astype(np.int32)
        codes[:, j] = np.where(rng.random(ROWS) < 0.8, codes[:, j - 1] * ADULT[j] // ADULT[j - 1], noise)
    return Table(Domain.from_shape({f"a{j:02}": size for j, size in enumerate(ADULT)}), codes)


def make_operations() -> dict[str, Operation]:
    table = adult_sized()
    domain = table.domain
    workload = Workload.random(domain)
    aim = AIM(domain, workload=workload, seed=0).fit(table)
    model = aim.model_
    small = [k for k, clique in enumerate(workload.closure) if domain.size(clique) <= 50_000]
    layout = workload.layout(np.array(small))
    charge = aim.ledger.charges[1]  # the first selection
    step = Step(0, variance=aim.ledger.charges[0].parameter, epsilon2=charge.parameter)
    generator = PGM(domain)
    start = generator.fit([m for m in aim.measurements_ if len(m.clique) == 1], model.total)

    def select() -> object:
        state = PublicState(workload, start, aim.measurements_, generator, model.total, 1e6)
        return PlaintextBackend(table, workload, sound=True).select(state, step, Ledger(None, Source.seeded(0)))

    return {
        "fit": lambda: AIM(domain, workload=workload, seed=0).fit(table),
        "generate": lambda: generator.fit(aim.measurements_, model.total, final=True),
        "select": select,
        "marginals": lambda: GraphicalModel(domain, model.potentials, model.total).distribution(layout),
        "likelihood": lambda: model.log_likelihood(table),
        "sample": lambda: model.sample(ROWS, np.random.default_rng(0)),
    }


def many_small_arrays() -> None:
    """What belief propagation is made of: calls on a few hundred cells, and Python between them."""
    a = np.linspace(0.0, 1.0, 480)
    ones = np.ones(16)
    tables = {}
    for k in range(600):
        b = np.exp(a)
        b *= (b.reshape(30, 16) @ ones).reshape(30, 1).repeat(16, axis=1).ravel()
        b /= b.sum()
        tables[k % 50, k % 7] = b
        sorted(tables)[:1]


_RNG = np.random.default_rng(0)
_CODES = _RNG.integers(0, 5000, 100_000)
_FLOATS = _RNG.random(100_000)


def few_large_arrays() -> None:
    """What counting, sampling and likelihoods are made of: arithmetic, gathers and counts, in fresh memory each.

    No sorts: their speed depends on the processor's instructions, and that of fresh memory on the machine.
    """
    for _ in range(4):
        cells = _CODES * 2 + (_FLOATS > 0.5)
        counts = np.bincount(cells, minlength=10_000)
        np.cumsum(counts[cells] + _FLOATS)


KERNELS = {
    "fit": many_small_arrays,
    "generate": many_small_arrays,
    "select": few_large_arrays,
    "marginals": many_small_arrays,
    "likelihood": few_large_arrays,
    "sample": few_large_arrays,
}


class Ratios:
    """Least CPU seconds of operations and of the kernels that run beside them."""

    def __init__(self, operations: dict[str, Operation]) -> None:
        self.operations = operations
        self._least: dict[Operation, float] = {}

    def measure(self, names: Iterable[str]) -> dict[str, float]:
        """Repeat the named operations and their kernels by turns; ratios of the least seconds so far."""
        with threadpool_limits(1):
            for _ in range(REPEATS):
                for name in names:
                    self._time(KERNELS[name])
                    self._time(self.operations[name])
        return {name: self._least[self.operations[name]] / self._least[KERNELS[name]] for name in names}

    def _time(self, run: Operation) -> None:
        """The least of as many calls as go into ``CHUNK`` seconds, at least one."""
        begin = start = time.process_time()
        while start - begin < CHUNK:
            run()
            end = time.process_time()
            self._least[run] = min(end - start, self._least.get(run, np.inf))
            start = end


@pytest.fixture(scope="module")
def operations() -> dict[str, Operation]:
    return make_operations()


@pytest.mark.parametrize("name", KERNELS)
def test_benchmark(name: str, operations: dict[str, Operation], benchmark: Any, request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("benchmark_only"):
        benchmark.disabled = True  # run once
    benchmark(operations[name])


def test_no_operation_is_slower_than_its_committed_ratio(operations: dict[str, Operation]) -> None:
    limits = {name: SLACK * ratio for name, ratio in json.loads(RATIOS.read_text()).items()}
    assert set(limits) == set(operations)
    ratios = Ratios(operations)
    slow = {name: 0.0 for name in limits}
    for _ in range(ATTEMPTS):
        slow = {name: ratio for name, ratio in ratios.measure(slow).items() if ratio > limits[name]}
        if not slow:
            return
    pytest.fail(
        "; ".join(f"{name}: {slow[name] / limits[name] * SLACK:.2f} times its committed ratio" for name in slow)
    )


def main() -> None:
    """Write the ratios of this checkout."""
    ratios = Ratios(make_operations())
    for _ in range(ATTEMPTS):
        latest = ratios.measure(KERNELS)
    RATIOS.write_text(json.dumps({name: float(f"{ratio:.3g}") for name, ratio in latest.items()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
