"""How seconds and memory grow with rows, attributes, measured cliques, clients and model cells; what bounds them.

    python experiments/growth.py [--out experiments/results/growth] [--repeats 3]

Synthetic tables: fourteen attributes with Adult's sizes, or any number of attributes with 2 to 20 codes, each a noisy
function of its predecessor. Every point is a fit in a process of its own. Writes ``growth.csv`` (a row per fit, at
once; a stopped run goes on where it was), ``growth.png`` and ``growth.md``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import pandas as pd
from engines import append, in_new_process, peak_mb, used_since
from provenance import machine
from rich.progress import track

from marginal_sdg import AIM, FLAIM, Domain
from marginal_sdg.encoding import Table
from marginal_sdg.experiment.figure import COLOURS, STYLE
from marginal_sdg.generators.pgm import PGM
from marginal_sdg.graphical.calibration import Calibrated, Calibrator
from marginal_sdg.graphical.junction import JunctionTree, Sizes, mask_of
from marginal_sdg.marginals import contingency
from marginal_sdg.release import Measurement

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = npt.NDArray[np.float64]

ADULT = (85, 9, 100, 16, 7, 15, 6, 5, 2, 100, 100, 99, 42, 2)
AXES: dict[str, tuple[str, tuple[int, ...]]] = {
    "rows": ("AIM, T = 10: rows", (10_000, 100_000, 1_000_000, 10_000_000)),
    "attributes": ("AIM, T = 10, 100,000 rows: attributes", (10, 20, 50, 100)),
    "cliques": ("final fit: measured 2- and 3-ways", (10, 20, 50, 100, 200)),
    "clients": ("FLAIM (Private), T = 10, 1,000,000 rows: clients", (100, 300, 1_000, 3_000, 10_000)),
    "cells": ("one belief-propagation pass: model cells", (1_000, 10_000, 100_000, 1_000_000, 10_000_000)),
}
SLOW = 60.0  # CPU seconds; such points are not repeated


def synthetic(sizes: tuple[int, ...], rows: int) -> Table:
    """Each attribute follows its predecessor in four records of five and is skewed noise in the fifth."""
    rng = np.random.default_rng(0)
    codes = np.empty((rows, len(sizes)), dtype=np.int32)
    codes[:, 0] = sizes[0] * rng.random(rows, dtype=np.float32) ** 2
    for j in range(1, len(sizes)):
        noise = (sizes[j] * rng.random(rows, dtype=np.float32) ** 3).astype(np.int32)
        follows = rng.random(rows, dtype=np.float32) < 0.8
        codes[:, j] = np.where(follows, codes[:, j - 1] * sizes[j] // sizes[j - 1], noise)
    return Table(Domain.from_shape({f"a{j:03}": size for j, size in enumerate(sizes)}), codes)


def small_sizes(attributes: int) -> tuple[int, ...]:
    """2 to 20 codes each."""
    return tuple(int(size) for size in np.random.default_rng(1).integers(2, 21, attributes))


def by_rows(rows: int) -> Callable[[], Any]:
    """AIM on Adult's shape."""
    table = synthetic(ADULT, rows)
    return lambda: AIM(table.domain, seed=0).fit(table)


def by_attributes(attributes: int) -> Callable[[], Any]:
    """AIM on a wider table."""
    table = synthetic(small_sizes(attributes), 100_000)
    return lambda: AIM(table.domain, seed=0).fit(table)


def by_cliques(count: int) -> Callable[[], Any]:
    """One final fit to all 1-ways of 100 attributes and ``count`` cliques inside windows of three neighbours."""
    table = synthetic(small_sizes(100), 100_000)
    names, rng = table.domain.names, np.random.default_rng(2)
    windows = [names[i : i + 3] for i in range(len(names) - 2)]
    pool = [(a, b) for a, b, _ in windows] + [(a, c) for a, _, c in windows] + windows
    cliques = [pool[k] for k in rng.permutation(len(pool))[:count]] + [(name,) for name in names]
    measurements = []
    for clique in cliques:
        exact = contingency(table, clique)
        measurements.append(Measurement(clique, exact + np.rint(rng.normal(0, 30, len(exact))).astype(np.int64), 30.0))
    return lambda: PGM(table.domain).fit(measurements, float(len(table)), final=True)


def by_clients(clients: int) -> Callable[[], Any]:
    """FLAIM on Adult's shape, rows dealt in turn."""
    table = synthetic(ADULT, 1_000_000)
    tables = [table.take(np.arange(k, len(table), clients)) for k in range(clients)]
    return lambda: FLAIM(table.domain, variant="private", participation=0.1, seed=0).fit(tables)


def chain(cells: int) -> Calibrator:
    """A chain of ten 3-way cliques over twelve attributes of equal size, about ``cells`` cells together."""
    sizes = Sizes([max(2, round((cells / 10) ** (1 / 3)))] * 12)
    cliques = [mask_of((i, i + 1, i + 2)) for i in range(10)]
    return Calibrator(JunctionTree.covering(sizes, cliques), cliques)


def by_cells(cells: int) -> Callable[[], Any]:
    """Belief propagation alone, often enough to be measured."""
    calibrator = chain(cells)
    theta = np.random.default_rng(3).normal(size=int(calibrator.starts[-1]))

    def run() -> None:
        for _ in range(passes_for(cells)):
            calibrator(theta)  # not kept: fresh pages would cost more than the pass

    return run


def passes_for(cells: int) -> int:
    """Passes for a measurement of a second or so."""
    return max(3, min(3_000, 30_000_000 // cells))


POINTS = {
    "rows": by_rows,
    "attributes": by_attributes,
    "cliques": by_cliques,
    "clients": by_clients,
    "cells": by_cells,
}


def bytes_per_pass(calibrator: Calibrator) -> int:
    """What one pass reads and writes in node tables and potentials, 8 bytes a cell; messages are left out.

    Per node: zeros, one addition per potential, exp, the upward sum, a product per child, the downward product, the
    reductions to sub-tables. Temporaries that a cache could keep are counted like all others.
    """
    moved = 4 * int(calibrator.starts[-1])
    for i, node in enumerate(calibrator.tree.nodes):
        touched = 1 + 3 * len(calibrator._potentials[i]) + 2 + 1
        touched += 2 * len(calibrator._children[i]) + 2 + len(calibrator._recipes[i])
        moved += touched * calibrator.tree.sizes.cells(node)
    return 8 * moved


def best(run: Callable[[], Any], repeats: int = 20) -> float:
    """Least CPU seconds of a call."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return min(seconds)


def limits(mb: float) -> dict[str, float]:
    """What this core does at best on vectors of ``mb`` MB in all: triad bandwidth, GB/s, and exp, 1e9/s.

    At least 0.1 MB, so that NumPy's cost per call does not count as the machine's.
    """
    n = int(max(mb, 0.1) * 2**20 / 24)
    a, b, c = np.ones(n), np.full(n, 0.5), np.empty(n)
    loops = max(1, 2**18 // n)

    def triad() -> None:
        for _ in range(loops):
            np.multiply(a, 1.5, out=c)
            np.add(c, b, out=c)

    def exponential() -> None:
        for _ in range(loops):
            np.exp(b, out=c)

    return {
        "bandwidth_gb": 40 * n * loops / best(triad) / 1e9,
        "exp_rate": n * loops / best(exponential) / 1e9,
    }


class Passes:
    """Counts belief-propagation passes, their bytes and their CPU seconds while it is in force."""

    def __init__(self) -> None:
        self.count, self.bytes, self.exps, self.seconds = 0, 0, 0, 0.0
        self._plain = Calibrator.__call__
        self._known: dict[int, tuple[Calibrator, int]] = {}

    def __enter__(self) -> Passes:
        self._patch = mock.patch.object(Calibrator, "__call__", lambda calibrator, theta: self._run(calibrator, theta))
        self._patch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.stop()

    def _run(self, calibrator: Calibrator, theta: Floats) -> Calibrated:
        if id(calibrator) not in self._known:
            self._known[id(calibrator)] = (calibrator, bytes_per_pass(calibrator))
        start = time.process_time()
        result = self._plain(calibrator, theta)
        self.seconds += time.process_time() - start
        self.count += 1
        self.bytes += self._known[id(calibrator)][1]
        self.exps += calibrator.tree.cells
        return result


def forget_peak() -> float:
    """Start the record of peak memory anew, where the system can (Linux); what is resident now, MB."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak_mb()


def measure(axis: str, value: int, start: float) -> dict[str, Any]:
    """One point; the table is made before the clock starts, its memory counts."""
    run = POINTS[axis](value)
    before = forget_peak()
    with Passes() as passes:
        wall, cpu = time.perf_counter(), time.process_time()
        result = run()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    used = used_since(start)
    cells = chain(value).tree.cells if axis == "cells" else getattr(result, "model_", result).cells
    known = limits(8 * cells / 2**20)
    timings = getattr(result, "timings_", {})
    return {
        "fit_seconds": round(wall, 4),
        "fit_cpu_seconds": round(cpu, 4),
        **{f"{phase}_seconds": round(timings.get(phase, 0.0), 4) for phase in ("select", "measure", "generate")},
        **used,
        "added_mb": round(used["peak_mb"] - before, 1),
        "model_cells": cells,
        "passes": passes.count,
        "pass_cpu_seconds": passes.seconds,
        "bytes": passes.bytes,
        "exps": passes.exps,
        **known,
        "bound_seconds": passes.bytes / known["bandwidth_gb"] / 1e9 + passes.exps / known["exp_rate"] / 1e9,
    }


def growth(values: Floats, seconds: Floats) -> tuple[float, float]:
    """Exponents of ``seconds ~ values**k``: least squares over all points, and between the last two."""
    x, y = np.log(values), np.log(seconds)
    return float(np.polyfit(x, y, 1)[0]), float((y[-1] - y[-2]) / (x[-1] - x[-2]))


def draw(points: pd.DataFrame) -> bytes:
    """Seconds above, peak memory below, one column per axis of growth."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        names = [name for name in AXES if name in set(points["axis"])]
        figure = Figure(figsize=(3.1 * len(names), 5.6), layout="constrained")
        grid = figure.subplots(2, len(names), squeeze=False, sharex="col")
        for column, name in enumerate(names):
            part = points[points["axis"] == name]
            x = part["value"].to_numpy(float)
            per = part["passes"].to_numpy(float) if name == "cells" else np.ones(len(part))
            top, bottom = grid[0, column], grid[1, column]
            _curve(top, x, part["fit_cpu_seconds"].to_numpy(float) / per, COLOURS[0], "CPU")
            if name == "cells":
                top.plot(x, part["bound_seconds"] / per, color=COLOURS[1], linestyle="--", label="bound")
                top.legend()
            _curve(bottom, x, part["peak_mb"].to_numpy(float), COLOURS[2], "memory")
            top.set_title(AXES[name][0].replace(": ", "\n"), fontsize=8)
            bottom.set_xlabel(name)
        for row in grid:  # one scale for all, so that slopes compare; a single pass has its own
            fits = row[: len(names) - ("cells" in names)]
            ends = np.array([axes.get_ylim() for axes in fits])
            for axes in fits:
                axes.set_ylim(ends.min(), ends.max())
        grid[0, 0].set_ylabel("CPU seconds")
        grid[1, 0].set_ylabel("peak memory, MB")
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
        return file.getvalue()


def _curve(axes: Axes, x: Floats, y: Floats, colour: str, label: str) -> None:
    axes.loglog(x, y, color=colour, marker="o", markersize=4, label=label)
    if len(x) > 1:
        overall, last = growth(x, y)
        text = f"exponent {overall:.2f}\nlast step {last:.2f}"
        axes.text(0.04, 0.96, text, transform=axes.transAxes, va="top", fontsize=8)


def summarise(points: pd.DataFrame) -> str:
    """Exponents, the points themselves, and the distance to the machine's limits."""
    lines = [
        "How CPU seconds and peak memory grow. Every fit has a process of its own; of repeats, the least CPU seconds.",
        f"{machine()}.",
        "",
        "![growth](growth.png)",
        "",
        "| axis | from | to | CPU s | exponent | last step | peak MB | exponent | last step |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, (title, _) in AXES.items():
        part = points[points["axis"] == name]
        if len(part) > 1:
            x, seconds, memory = (part[c].to_numpy(float) for c in ("value", "fit_cpu_seconds", "peak_mb"))
            seconds = seconds / part["passes"].to_numpy(float) if name == "cells" else seconds
            (k, last), (km, lastm) = growth(x, seconds), growth(x, memory)
            lines.append(
                f"| {title} | {x[0]:,.0f} | {x[-1]:,.0f} | {seconds[0]:.2g} to {seconds[-1]:.3g} | {k:.2f} "
                f"| {last:.2f} | {memory[0]:,.0f} to {memory[-1]:,.0f} | {km:.2f} | {lastm:.2f} |"
            )
    lines += [
        "",
        "| axis | value | CPU s | select | measure | generate | peak MB | of it by the fit "
        "| model cells | passes | us a pass | bound / CPU of the passes | passes / CPU of the fit |",
        "| --- |" + " ---: |" * 12,
    ]
    for row in points.to_dict("records"):
        lines.append(
            f"| {row['axis']} | {row['value']:,} | {row['fit_cpu_seconds']:.3g} | {row['select_seconds']:.3g} "
            f"| {row['measure_seconds']:.3g} | {row['generate_seconds']:.3g} | {row['peak_mb']:,.0f} "
            f"| {row['added_mb']:,.0f} | {row['model_cells']:,} | {row['passes']:,} "
            f"| {1e6 * row['pass_cpu_seconds'] / row['passes']:,.0f} "
            f"| {row['bound_seconds'] / row['pass_cpu_seconds']:.1%} "
            f"| {row['pass_cpu_seconds'] / row['fit_cpu_seconds']:.0%} |"
        )
    lines += ["", BOUND, ""]
    return "\n".join(lines)


BOUND = """\
Phases are wall seconds, the rest CPU seconds. More rows let larger cliques be worth their noise, so the model grows
with them; of a million rows' fit, about a sixth is counting, the rest belongs to the larger model.

**Bound.** Belief propagation reuses nothing: it reads and writes every node table a fixed number of times (bytes
counted from the tree, temporaries included) and takes one exp per cell. So it is bound by memory: bytes over the triad
bandwidth measured on vectors of the model's size, plus cells over the measured rate of `np.exp`. Small models are far
from it: some twenty NumPy calls per node at a microsecond or so each, whatever the node's size. Models of megabytes
come nearer; what they lose is broadcasting over short last axes, and fresh pages for temporaries."""


def main() -> None:
    """Measure what is missing, write every row at once, fit exponents, draw."""
    parser = argparse.ArgumentParser(description="Measure how fits grow.")
    parser.add_argument("--out", type=Path, default=Path("results/growth"))
    parser.add_argument("--repeats", type=int, default=3, help="fits per point; those of a minute run once")
    parser.add_argument("--child", nargs=3, metavar=("START", "AXIS", "VALUE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        start, axis, value = options.child
        print(json.dumps(measure(axis, int(value), float(start))))
        return
    path = options.out / "growth.csv"
    known = ["axis", "value", "repeat"]
    old = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=[*known, "process_cpu_seconds"])
    done = set(old[known].itertuples(index=False, name=None))
    slow = set(old.loc[old["process_cpu_seconds"] > SLOW, ["axis", "value"]].itertuples(index=False, name=None))
    plan = [(a, v, r) for r in range(options.repeats) for a, (_, values) in AXES.items() for v in values]
    for axis, value, repeat in track([point for point in plan if point not in done], "fits"):
        if (axis, value) in slow:
            continue
        load = round(os.getloadavg()[0], 2)
        row = in_new_process(__file__, axis, str(value))
        append(path, {"axis": axis, "value": value, "repeat": repeat, "load": load, **row})
        if row["process_cpu_seconds"] > SLOW:
            slow.add((axis, value))
    rows = pd.read_csv(path).sort_values(["axis", "value", "fit_cpu_seconds"])
    order = {name: place for place, name in enumerate(AXES)}
    points = rows.groupby(["axis", "value"], as_index=False).first()
    points = points.sort_values(["axis", "value"], key=lambda c: c.map(order) if c.name == "axis" else c)
    (options.out / "growth.png").write_bytes(draw(points))
    text = summarise(points)
    (options.out / "growth.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
