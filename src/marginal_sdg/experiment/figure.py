"""The figure of a sweep: a metric in each panel, every run a dot, means with intervals, the paper's marks."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from marginal_sdg.experiment.grid import label, varying
from marginal_sdg.experiment.summary import CellSummary
from marginal_sdg.experiment.targets import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito: told apart with any kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
AXIS_NAMES = {
    "workload_error": "Workload error (mean L1)",
    "nll": "Negative log-likelihood (nats)",
    "nll_kde": "Negative log-density (kernel estimate)",
    "auc": "AUC",
    "accuracy": "classification accuracy",
    "epsilon": "Privacy budget ε",
    "rounds": "Rounds T",
    "participation": "Participation p",
    "clients": "Clients K",
    "gaussian_share": "Gaussian share r",
    "local_steps": "Local steps s",
    "feature_skew": "Feature skew β",
    "partition": "Heterogeneity β of the Dirichlet partition",
}
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
    "pdf.fonttype": 42,
    "legend.frameon": False,
}


def draw(title: str, summaries: Sequence[CellSummary], x: str | None) -> dict[str, bytes]:
    """The figure as {"png": ..., "pdf": ...}; ``x`` is the parameter on the axis, guessed if None."""
    import matplotlib
    from matplotlib.figure import Figure

    metrics = [name for name in METRICS if any(name in summary.estimates for summary in summaries)]
    x = x or _main_axis(summaries)
    positions = {_position(summary, x) for summary in summaries} - {None}
    numeric = len(positions) > 1
    with matplotlib.rc_context(STYLE):
        height = 3.2 if numeric else 1.3 + 0.28 * len(summaries)
        figure = Figure(figsize=(4.2 * len(metrics) + 0.6, max(height, 2.4)), layout="constrained")
        for index, metric in enumerate(metrics):
            axes = figure.add_subplot(1, len(metrics), index + 1)
            if numeric:
                _lines(axes, metric, summaries, x)
            else:
                _dots(axes, metric, summaries, x)
                axes.tick_params(axis="y", labelleft=index == 0)
        _legend(figure)
        figure.suptitle(title, fontsize=10, x=0.01, ha="left")
        return {kind: _saved(figure, kind) for kind in ("png", "pdf")}


def _position(summary: CellSummary, x: str) -> float | None:
    """Where a cell stands on the axis; None where its value is no number, or ``x`` does not apply to it."""
    value = getattr(summary.cell, x)
    if isinstance(value, str) and value.startswith("dirichlet:"):
        value = float(value.removeprefix("dirichlet:"))
    return None if value is None or isinstance(value, str) else float(value)


def _main_axis(summaries: Sequence[CellSummary]) -> str:
    """The number that varies most, or the method."""
    counts = {}
    for name in varying([summary.cell for summary in summaries]):
        values = {getattr(summary.cell, name) for summary in summaries}
        if not any(value is None or isinstance(value, str) for value in values):
            counts[name] = len(values)
    return max(counts, key=lambda name: counts[name]) if counts else "method"


def _series(summaries: Sequence[CellSummary], x: str) -> dict[str, list[CellSummary]]:
    """Cells that differ only in ``x``, by what they share."""
    names = [name for name in varying([summary.cell for summary in summaries]) if name != x]
    series: dict[str, list[CellSummary]] = {}
    for summary in summaries:
        series.setdefault(label(summary.cell, names), []).append(summary)
    return series


def _lines(axes: Axes, metric: str, summaries: Sequence[CellSummary], x: str) -> None:
    """A line per series over ``x``; cells without a place there, such as adaptive rounds, are levels across."""
    positions = sorted({at for summary in summaries if (at := _position(summary, x)) is not None})
    for index, (name, members) in enumerate(_series(summaries, x).items()):
        known = [member for member in members if metric in member.estimates]
        points = [(at, m) for m in known if (at := _position(m, x)) is not None]
        points.sort(key=lambda point: point[0])
        style: dict[str, Any] = {"color": COLOURS[index % len(COLOURS)], "label": name}
        for level in known:
            if _position(level, x) is None:
                shown = "_" + name if points else name  # the line's own label stands in the legend
                across = {**style, "label": shown, "linestyle": "--" if points else "-", "linewidth": 1}
                axes.axhline(level.estimates[metric].mean, **across)
        if points:
            _line(axes, metric, points, {**style, "label": name, "marker": MARKERS[index % len(MARKERS)]})
    if positions[0] > 0 and positions[-1] / positions[0] >= 20:
        axes.set_xscale("log")
        axes.set_xticks(positions, [f"{position:g}" for position in positions])
        axes.minorticks_off()
    axes.set_xlabel(AXIS_NAMES.get(x, x))
    axes.set_ylabel(AXIS_NAMES[metric])
    if _wide(summaries, metric):
        axes.set_yscale("log")


def _line(axes: Axes, metric: str, points: Sequence[tuple[float, CellSummary]], style: dict[str, Any]) -> None:
    at = [position for position, _ in points]
    estimates = [point.estimates[metric] for _, point in points]
    axes.plot(at, [e.mean for e in estimates], markersize=4, **style)
    low = [e.mean if e.low is None else e.low for e in estimates]
    high = [e.mean if e.high is None else e.high for e in estimates]
    axes.fill_between(at, low, high, color=style["color"], alpha=0.15, linewidth=0)
    told = [(position, point.paper[metric]) for position, point in points if metric in point.paper]
    if told:
        _paper_marks(axes, *zip(*told, strict=True))


def _dots(axes: Axes, metric: str, summaries: Sequence[CellSummary], x: str) -> None:
    """One row per cell, grouped by ``x``; long names stay readable on the left."""
    groups: dict[str, list[tuple[int, str, CellSummary]]] = {}
    for index, (name, members) in enumerate(_series(summaries, x).items()):
        for member in members:
            groups.setdefault(_group(member, x), []).append((index, name, member))
    ticks, row = [], 0.0
    for members_of in groups.values():
        ticks.append(row + (len(members_of) - 1) / 2)
        for index, name, member in members_of:
            if metric in member.estimates:
                _dot(axes, row, member, metric, index, name)
            row += 1
        row += 0.6
    axes.set_yticks(ticks, list(groups))
    axes.set_ylim(row - 0.1, -1.0)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(AXIS_NAMES[metric])
    if _wide(summaries, metric):
        axes.set_xscale("log")
    else:
        axes.locator_params(axis="x", nbins=5)


def _group(summary: CellSummary, x: str) -> str:
    value = getattr(summary.cell, x)
    return "" if value is None else str(value)


def _dot(axes: Axes, row: float, member: CellSummary, metric: str, index: int, name: str) -> None:
    colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
    estimate, values = member.estimates[metric], member.values[metric]
    axes.scatter(values, [row] * len(values), s=9, color=colour, alpha=0.3, linewidths=0)
    if estimate.low is not None and estimate.high is not None:
        axes.hlines(row, estimate.low, estimate.high, color=colour, linewidth=2)
    axes.scatter([estimate.mean], [row], s=28, color=colour, marker=marker, zorder=3, label=name or "mean")
    if metric in member.paper:
        _paper_marks(axes, (member.paper[metric],), (row,))


def _paper_marks(axes: Axes, x: Sequence[float], y: Sequence[float]) -> None:
    axes.scatter(
        x,
        y,
        s=58,
        facecolors="none",
        edgecolors="black",
        linewidths=1,
        marker="d",
        zorder=4,
        label="published",
    )


def _wide(summaries: Sequence[CellSummary], metric: str) -> bool:
    """Whether a linear scale would crush most of the values."""
    means = [summary.estimates[metric].mean for summary in summaries if metric in summary.estimates]
    return min(means) > 0 and max(means) > 15 * min(means)


def _legend(figure: Figure) -> None:
    """One legend for all panels, each name once."""
    shown: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            shown.setdefault(name, handle)
    if len(shown) > 1:
        names = sorted(shown, key=lambda name: name == "published")
        figure.legend([shown[n] for n in names], names, loc="outside lower center", ncols=min(4, len(names)))


def _saved(figure: Figure, kind: str) -> bytes:
    stream = io.BytesIO()
    metadata = {"CreationDate": None} if kind == "pdf" else {"Software": None}
    figure.savefig(stream, format=kind, dpi=180, metadata=metadata)  # the same runs give the same bytes
    return stream.getvalue()
