"""Figures, and what is made of them: tables, a file, a comparison and a picture."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from _peers import Ours

Panel = tuple[str, str, str, str]
"""Group, workload, side and unit: what can be compared."""


@dataclass(frozen=True)
class Figure:
    """What was measured of one side of an implementation, in each turn. Less is better."""

    group: str
    workload: str
    side: str
    implementation: str
    unit: str
    values: list[float]

    @property
    def panel(self) -> Panel:
        """What it stands beside."""
        return self.group, self.workload, self.side, self.unit

    @property
    def median(self) -> float:
        """The figure to quote."""
        return statistics.median(self.values)

    def ratios(self, other: Figure) -> list[float] | None:
        """Divide by another one's, turn by turn, as both met the same machine."""
        if not all(other.values):
            return None
        return [mine / theirs for mine, theirs in zip(self.values, other.values, strict=True)]


def _panels(figures: Iterable[Figure]) -> dict[Panel, dict[str, Figure]]:
    """Sort by panel and implementation. CPU time comes first, as wall time is noisy."""
    panels: dict[Panel, dict[str, Figure]] = {}
    for figure in sorted(figures, key=lambda figure: figure.side == "wall"):
        panels.setdefault(figure.panel, {})[figure.implementation] = figure
    return panels


def _number(value: float) -> str:
    return f"{value:.{0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2}f}"


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def _spread(values: Sequence[float], width: int = 8) -> str:
    low, median, high = map(_number, _quartiles(values))
    return f"{median:>{width}}  ({low} to {high})"


def _ratio(figure: Figure, other: Figure | None) -> str:
    ratios = None if other is None else figure.ratios(other)
    if ratios is None or figure is other:
        return ""
    return f"x {_spread(ratios, 5)}"


def joined(figures: Iterable[Figure], more: Iterable[Figure]) -> list[Figure]:
    """Put the turns of another start behind those of the same figures."""
    known = {(*figure.panel, figure.implementation): figure for figure in figures}
    for figure in more:
        key = (*figure.panel, figure.implementation)
        before = known.get(key)
        known[key] = replace(figure, values=[*(before.values if before else ()), *figure.values])
    return list(known.values())


def print_tables(figures: Iterable[Figure]) -> None:
    """Print all figures, with what they are in relation to ours."""
    print("\nMedian (from one quartile to the other), and what it is in relation to")
    print(f"{Ours.name}, turn by turn: x 1.80 costs 1.8 times as much. Less is better.")
    for (_, workload, side, unit), by_name in _panels(figures).items():
        print(f"\n{workload}: {side}, {unit}")
        for name, figure in by_name.items():
            ratio = _ratio(figure, by_name.get(Ours.name))
            print(f"  {name:26}{_spread(figure.values):32}{ratio}".rstrip())


def write(path: Path, environment: dict[str, Any], figures: Sequence[Figure]) -> None:
    """Save all that is known."""
    content = {"environment": environment, "figures": [asdict(figure) for figure in figures]}
    path.write_text(json.dumps(content, indent=1) + "\n")


def read(path: Path) -> list[Figure]:
    """Load what :func:`write` has saved."""
    return [Figure(**figure) for figure in json.loads(path.read_text())["figures"]]


def print_comparison(old: Iterable[Figure], new: Iterable[Figure]) -> None:
    """Print how the medians have changed since an earlier run."""
    before = _panels(old)
    print("\nMedian of the earlier run, of this one, and the ratio: x 0.90 is a tenth less.")
    for panel, by_name in _panels(new).items():
        both = [name for name in by_name if name in before.get(panel, {})]
        if both:
            print("\n{1}: {2}, {3}".format(*panel))
        for name in both:
            earlier, now = before[panel][name].median, by_name[name].median
            change = f"x {now / earlier:.2f}" if earlier else ""
            print(f"  {name:26}{_number(earlier):>8}  {_number(now):>8}  {change}".rstrip())


def print_ratios(figures: Iterable[Figure], now: str, before: str) -> None:
    """Print how two implementations compare: turn by turn, in the median, and at their best."""
    print(
        f"\n{now} to {before}: the median of the ratios of all turns, and the ratio of the lowest."
    )
    for panel, by_name in _panels(figures).items():
        ours, theirs = by_name[now].values, by_name[before].values
        if not all(theirs):
            continue
        ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
        words = "{1}: {2}, {3}".format(*panel)
        print(f"  {words:68} x {statistics.median(ratios):.3f}  x {min(ours) / min(theirs):.3f}")


OURS_COLOUR, OTHER_COLOUR, INK, FAINT = "#0b7285", "#b8c2cc", "#343a40", "#868e96"
COLUMNS = 4


def plot(path: Path, figures: Iterable[Figure]) -> None:
    """Draw a bar for each figure, except wall time. The format is by the suffix of ``path``."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Drawing

    mpl.rcParams.update({"font.size": 8, "text.color": INK})
    mpl.rcParams.update({"svg.hashsalt": "trio_tlsbio", "svg.fonttype": "none"})
    panels = [each for each in _panels(figures).items() if each[0][2] != "wall"]
    rows = -(-len(panels) // COLUMNS)
    drawing = Drawing(figsize=(16, 2.05 * rows + 0.4), layout="constrained", facecolor="white")
    axes = drawing.subplots(rows, COLUMNS, squeeze=False).flatten()
    for ax in axes[len(panels) :]:
        ax.remove()
    for ax, (panel, by_name) in zip(axes, panels, strict=False):
        _draw(ax, panel, list(by_name.values()))
    drawing.get_layout_engine().set(w_pad=0.12, h_pad=0.1)  # type: ignore[union-attr, call-arg]
    is_svg = path.suffix == ".svg"
    drawing.savefig(path, metadata={"Date": None} if is_svg else None, dpi=100)


def _draw(ax: Any, panel: Panel, figures: list[Figure]) -> None:
    _, workload, side, unit = panel
    ours = next((figure for figure in figures if figure.implementation == Ours.name), None)
    lows, medians, highs = zip(*(_quartiles(figure.values) for figure in figures), strict=True)
    errors = [
        [median - low for low, median in zip(lows, medians, strict=True)],
        [high - median for high, median in zip(highs, medians, strict=True)],
    ]
    ax.barh(
        range(len(figures)),
        medians,
        height=0.68,
        color=[OURS_COLOUR if figure is ours else OTHER_COLOUR for figure in figures],
        xerr=errors,
        error_kw={"ecolor": INK, "elinewidth": 0.8, "capsize": 1.5, "alpha": 0.7},
    )
    end = max(*highs, 1e-9)
    for index, figure in enumerate(figures):
        ratios = None if ours is None or figure is ours else figure.ratios(ours)
        label = _number(figure.median)
        label += f"   x {_number(statistics.median(ratios))}" if ratios else ""
        weight = "bold" if figure is ours else "normal"
        ax.text(highs[index] + end * 0.02, index, label, va="center", size=7, weight=weight)
    ax.set_yticks(range(len(figures)), [figure.implementation for figure in figures])
    ax.set_xlim(0, end * 1.3)
    ax.invert_yaxis()
    ax.set_title(f"{workload}\n", loc="left", size=9, weight="bold", pad=2)
    ax.text(0, 1.03, f"{side}, {unit}", transform=ax.transAxes, size=8, color=FAINT)
    ax.tick_params(length=0, labelcolor=INK)
    ax.tick_params(axis="x", labelsize=7, labelcolor=FAINT)
    ax.locator_params(axis="x", nbins=5)
    ax.grid(axis="x", color="#e9ecef", linewidth=0.7)
    ax.set_axisbelow(True)
    ax.spines[:].set_visible(False)
