"""The points of a figure as CSV once more, plainly: what its download must hold, and whether it has points at all."""

from __future__ import annotations

import csv
import io

import plotly.graph_objects as go

from app.figures.base import AGAIN


def to_csv(fig: go.Figure) -> str:
    """Trace, x, y, and z where there is one; a heat map gives a row a cell.

    Points without an x, as gaps in lines, are left out, and so are traces that show points AGAIN.
    """
    out = io.StringIO()
    writer = csv.writer(out)
    deep = any("z" in trace for trace in fig.data)
    space = any(trace.type.endswith("3d") for trace in fig.data)
    axes = [getattr(fig.layout.scene if space else fig.layout, f"{name}axis") for name in ("xyz" if space else "xy")]
    titles = [axis.title.text or name for axis, name in zip(axes, "xyz", strict=False)]
    writer.writerow(["trace", *titles, *(["value"] if deep and not space else [])])
    for trace in fig.data:
        if trace.meta == AGAIN:
            continue
        parts = [getattr(trace, name, None) for name in ("xyz" if deep else "xy")]
        if trace.type == "heatmap":
            x, y, z = parts
            rows = ((a, b, v) for b, row in zip(y, z, strict=True) for a, v in zip(x, row, strict=True))
        else:
            length = max((len(p) for p in parts if p is not None), default=0)
            rows = zip(*(p if p is not None else [""] * length for p in parts), strict=True)
        writer.writerows([trace.name or "", *row] for row in rows if row[0] is not None and row[0] == row[0])
    return out.getvalue()
