"""Findings of a study as plotly figures, which are plain dictionaries: for the page, the report and files.

Knows nothing of plotly but what its JSON looks like. A line is one label, a figure one facet; published numbers are
faint and say which model they are of.
"""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rcpu.measure.intervals import Interval
from rcpu.runs.readings import QUANTITIES, Reading, paired, readings
from rcpu.runs.studies import MEASURED, RATIO, Labels, Study, percent
from rcpu.runs.studying import Findings
from rcpu.runs.tables import dense_readings, in_order

#: Of dense, not repaired and repaired models everywhere in the explorer (Okabe and Ito), and what else there may be.
DENSE, ROLES = "#0072B2", {"none": "#E69F00", "rotation": "#009E73", "least_squares": "#D55E00"}
OTHERS = ("#CC79A7", "#56B4E9", "#8C6BB1", "#7F7F7F", "#A6761D", "#B8860B", "#44AA99")
DASHES = ("solid", "dash", "dot", "dashdot")
FAINT = 0.38
TITLE, SMALL_PRINT = 54, 84  # characters in a line where two figures stand side by side
LOG_FROM = 5.0  # times that the largest value is the smallest before an axis is logarithmic
Figure = dict[str, Any]


@dataclass(frozen=True)
class _View:
    """What one figure shows."""

    found: Findings
    quantity: str
    relative: bool
    at: Labels  # what it is of, where there are several figures

    @property
    def how(self) -> Mapping[str, Any]:
        """Which axis is what."""
        return self.found.study.figure

    def x(self, label: str) -> float | str:
        """Where a label lies: ratios in percent, windows and λ as numbers."""
        if self.how.get("bars"):
            return label
        return float(label.removesuffix(" %"))


def figures(found: Findings, quantity: str, relative: bool = False) -> list[Figure]:
    """The figures of a quantity with the same range, as plotly's JSON has them; none where nothing has been run.

    What is neither x nor a line is a figure of its own for each of its labels.
    """
    how, known = found.study.figure, in_order(found, readings(found.points, quantity))
    labels = {
        axis: {r.labels[axis] for r in known if axis in r.labels} for axis in (*found.study.axes, RATIO, MEASURED)
    }
    facets = [a for a, those in labels.items() if a not in (how["x"], how["line"], how.get("dash")) and len(those) > 1]
    if how.get("facet") and how["facet"] not in facets and labels[how["facet"]]:
        facets.append(how["facet"])
    groups: dict[tuple, list[Reading]] = {}
    for r in known:
        groups.setdefault(tuple((axis, r.labels[axis]) for axis in facets), []).append(r)
    relative = relative and can_be_relative(quantity)
    made = [_figure(_View(found, quantity, relative, dict(at)), shown) for at, shown in groups.items()]
    _same_range(made, QUANTITIES[quantity].log)
    return made


def can_be_relative(quantity: str) -> bool:
    """Whether a multiple of the dense model's value says anything."""
    return QUANTITIES[quantity].relative


def _figure(view: _View, shown: list[Reading]) -> Figure:
    found, q = view.found, QUANTITIES[view.quantity]
    line, dash, bars = view.how["line"], view.how.get("dash"), view.how.get("bars")
    labels = list(dict.fromkeys(r.labels[line] for r in shown))
    dashes = list(dict.fromkeys(r.labels[dash] for r in shown)) if dash else [None]
    traces = []
    for n, second in enumerate(dashes):
        for label in labels:
            of_line = [r for r in shown if r.labels[line] == label and (not dash or r.labels[dash] == second)]
            style = {"color": color_of(found.study, line, label, labels), "dash": DASHES[n % len(DASHES)]}
            if of_line:
                traces.append(_trace(view, of_line, label if second is None else f"{label}, {second}", style))
    xs = [x for trace in traces for x in trace["x"]]
    level, published = _dense(view, xs), _published(view, labels, xs)
    y = f"{q.label.split(',')[0]} ÷ dense" if view.relative else q.label
    title = [*textwrap.wrap(f"{found.study.title}: {y[:1].lower()}{y[1:]}", TITLE)]
    title += textwrap.wrap(", ".join(_told(found.study, axis, label) for axis, label in view.at.items()), TITLE)
    axis = {"title": {"text": _called(found.study, view.how["x"])}}
    layout = _layout(title, _small_print(found), axis, y, _alt(view, shown))
    if bars:
        axis |= {"type": "category", "categoryorder": "array", "categoryarray": _ascending(traces)}
        layout |= {"scattermode": "group", "shapes": [_shape(line) for line in level]}
        return {"data": [*traces, *published], "layout": layout}
    ticks = {view.x(r.labels[view.how["x"]]): r.labels[view.how["x"]] for r in shown}
    ticks |= {x: f"{x:g}" for t in published for x in t["x"] if x not in ticks}
    axis |= {"type": "log" if view.how.get("log_x") else "linear", "tickvals": sorted(ticks)}
    axis["ticktext"] = [ticks[x].removesuffix(" %") for x in sorted(ticks)]
    return {"data": [*level, *traces, *published], "layout": layout}


def _ascending(traces: list[Figure]) -> list[str]:
    """Labels that are numbers from the lowest on, others as the study declares them."""
    found = list(dict.fromkeys(x for trace in traces for x in trace["x"]))
    if all(label[:1].isdigit() for label in found):
        found.sort(key=lambda label: float(label.split()[0]))
    return found


def _shape(line: Figure) -> dict:
    """A level as a line across all groups of bars."""
    more = {"showlegend": True, "name": line["name"], "line": line["line"]}
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": line["y"][0], "y1": line["y"][0], **more}


def _layout(title: list[str], small: list[str], axis: Mapping, y: str, alt: str) -> dict:
    lines = [*map(html.escape, title), *(f"<sup>{html.escape(line)}</sup>" for line in small)]
    return {
        "title": {"text": "<br>".join(lines), "font": {"size": 16}, "y": 1, "yanchor": "top", "pad": {"t": 12}},
        "xaxis": axis,
        "yaxis": {"title": {"text": y}},
        "height": 340 + 20 * len(lines),
        "margin": {"l": 64, "r": 16, "t": 24 + 20 * len(lines), "b": 48},
        "legend": {"orientation": "h", "yref": "container", "yanchor": "bottom", "y": 0, "x": 0},
        "hovermode": "closest",
        "barmode": "group",
        "meta": {"alt": alt},
    }


def _trace(view: _View, of_line: list[Reading], name: str, style: Mapping[str, str]) -> Figure:
    x, y, ends, notes = [], [], [], []
    for r in of_line:
        value, between = _value(view, r)
        x.append(view.x(r.labels[view.how["x"]]))
        y.append(value)
        ends.append(between)
        seeds = f"{len(r.seeds)} seeds" if len(r.seeds) > 1 else "one seed"
        notes.append(f"95 % {between.low:.3g} to {between.high:.3g}, {seeds}" if between else seeds)
    error = None
    if any(ends):
        error = {
            "type": "data",
            "symmetric": False,
            "array": [e.high - v if e else 0 for e, v in zip(ends, y, strict=True)],
            "arrayminus": [v - e.low if e else 0 for e, v in zip(ends, y, strict=True)],
            "thickness": 1.2,
            "width": 4,
        }
    common = {"x": x, "y": y, "name": html.escape(name), "customdata": notes, "error_y": error}
    common["hovertemplate"] = "%{fullData.name} at %{x}: %{y:.4g}<br>%{customdata}<extra></extra>"
    if view.how.get("bars"):
        return {"type": "bar", "marker": {"color": style["color"]}, "offsetgroup": name, **common}
    marker = {"color": style["color"], "size": 7}
    return {"type": "scatter", "mode": "lines+markers", "line": {"width": 2, **style}, "marker": marker, **common}


def _value(view: _View, r: Reading) -> tuple[float, Interval | None]:
    """A value with its interval, or both as multiples of the dense model's: then the interval is a paired one."""
    if not view.relative:
        return r.value, r.interval
    dense = _dense_of(view, r)
    if dense is None or not dense.value:
        return r.value, r.interval
    same = Reading({}, r.seeds, dense.tables * len(r.seeds), dense.value, None, dense.unit)
    gap = paired(view.quantity, same, r)
    if gap is not None and gap.unit == "%" and gap.low is not None and not QUANTITIES[view.quantity].exact:
        return 1 + gap.value / 100, Interval(1 + gap.low / 100, 1 + gap.high / 100)
    ends = r.interval and Interval(r.interval.low / dense.value, r.interval.high / dense.value)
    return r.value / dense.value, ends


def _dense_of(view: _View, r: Reading) -> Reading | None:
    known = dense_readings(view.found, view.quantity)
    return next((d for d in known if d.labels.get(MEASURED) == r.labels.get(MEASURED)), None)


def _dense(view: _View, xs: list) -> list[Figure]:
    if not can_be_relative(view.quantity) or not xs:
        return []
    made = []
    for dense in dense_readings(view.found, view.quantity):
        if MEASURED in view.at and dense.labels.get(MEASURED) != view.at[MEASURED]:
            continue
        y = 1.0 if view.relative else dense.value
        ends = list(dict.fromkeys(xs)) if view.how.get("bars") else [min(xs), max(xs)]
        style = {"color": DENSE, "dash": "dot", "width": 2}
        made.append(_level("dense", ends, y, style, f"dense: {y:.4g}"))
    return made


def _level(name: str, x: list, y: float, style: Mapping, hover: str) -> Figure:
    hover = html.escape(hover)
    more = {"mode": "lines", "line": dict(style), "name": html.escape(name)}
    return {"type": "scatter", "x": x, "y": [y] * len(x), **more, "hovertemplate": f"{hover}<extra></extra>"}


def _published(view: _View, labels: list[str], xs: list) -> list[Figure]:
    """Faint lines of other models, one entry of the legend a model."""
    made, seen = [], set()
    for row in view.found.study.published:
        if row.get("quantity", view.found.study.quantities[0]) != view.quantity or not _fits(view, row.get("at", {})):
            continue
        if view.relative and not row.get("dense"):
            continue
        by = row["dense"] if view.relative else 1.0
        read = ", read off a plot" if row.get("read_off") else ""
        for label in labels:
            style = {"color": color_of(view.found.study, view.how["line"], label, labels), "dash": "dash", "width": 1.5}
            hover = f"{row['model']}, published{read}: {label}"
            if label in row.get("level", {}):
                ends = [min(xs), max(xs)]
                trace = _level(row["model"], ends, row["level"][label] / by, style, hover + f" {row['level'][label]:g}")
            elif points := row.get("rows", {}).get(label):
                ratio = view.how["x"] == RATIO
                named = {percent(float(k)) if ratio else k: v / by for k, v in points.items()}
                if view.how.get("bars"):  # a group of bars for nothing but published numbers would be empty
                    named = {k: v for k, v in named.items() if k in xs}
                trace = _level(row["model"], [view.x(k) for k in named], 0.0, style, "")
                trace["y"] = list(named.values())
                trace["mode"] = "markers" if view.how.get("bars") else "lines+markers"
                trace["hovertemplate"] = html.escape(hover) + " at %{x}: %{y:.4g}<extra></extra>"
            else:
                continue
            name = f"{row['model']}, published"
            trace |= {"name": name, "legendgroup": name, "opacity": FAINT, "showlegend": name not in seen}
            if view.how.get("bars"):
                trace["offsetgroup"] = label
            trace["marker"] = {"size": 7, "color": style["color"], "symbol": "diamond-open"}
            seen.add(name)
            made.append(trace)
    return made


def _fits(view: _View, at: Labels) -> bool:
    """Whether published numbers belong to this figure, and to something that was run."""
    labels = [point.labels for point in view.found.points]
    return all(
        label == view.at[axis] if axis in view.at else any(known.get(axis) == label for known in labels)
        for axis, label in at.items()
    )


def color_of(study: Study, axis: str, label: str, shown: Sequence[str]) -> str:
    """The colour of a label: that of its role where it has one, else one of its own, the same in every figure."""
    values = study.axes[axis].values if axis in study.axes else {key: {} for key in shown}
    if role := _role(values[label]):
        return role
    others = [name for name, settings in values.items() if not _role(settings)]
    return OTHERS[others.index(label) % len(OTHERS)]


def _role(settings: Mapping[str, Any]) -> str:
    plain = not {"repaired", "proper", "by_head", "pull"} & set(settings)
    return ROLES.get(settings.get("compensation"), "") if plain else ""


def _called(study: Study, axis: str) -> str:
    """What an axis is called."""
    removed = "Fewer parameters, %" if study.equal else "Ratio removed, %"
    return study.axes[axis].label if axis in study.axes else {RATIO: removed, MEASURED: "Measured on"}[axis]


def _told(study: Study, axis: str, label: str) -> str:
    return label if axis == RATIO else f"{_called(study, axis)[:1].lower()}{_called(study, axis)[1:]} {label}"


def _small_print(found: Findings) -> list[str]:
    series = found.series
    text = f"{series['model']}; text {series['text']}, measured on {series['evaluation']}"
    return textwrap.wrap("; ".join([text, *found.cut]), SMALL_PRINT)


def _alt(view: _View, shown: list[Reading]) -> str:
    values = [f"{', '.join(r.labels.values())} {r.value:.{QUANTITIES[view.quantity].digits}f}" for r in shown]
    return f"{view.found.study.title}, {QUANTITIES[view.quantity].label}: {'; '.join(values)}"


def _same_range(made: list[Figure], log: bool) -> None:
    """The same range for all facets, logarithmic where values lie far apart."""
    values = [v for figure in made for trace in figure["data"] for v in _extent(trace) if v > 0]
    if not values:
        return
    low, high = min(values), max(values)
    if log and high / low > LOG_FROM:
        low, high, more = math.log10(low), math.log10(high), {"type": "log", "dtick": "D2"}
    else:
        more = {}
    room = 0.06 * (high - low) or 0.1 * abs(high)
    for figure in made:
        bars = any(t["type"] == "bar" for t in figure["data"])
        start = 0 if bars and not more else low - room
        figure["layout"]["yaxis"] |= more | {"range": [start, high + room]}


def _extent(trace: Figure) -> list[float]:
    """Values and the ends of their intervals."""
    error = trace.get("error_y") or {}
    ends = [y + up for y, up in zip(trace["y"], error.get("array", []), strict=False)]
    return [*trace["y"], *ends, *(y - down for y, down in zip(trace["y"], error.get("arrayminus", []), strict=False))]
