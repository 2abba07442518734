"""What leaves a layer, as a small drawing: each matrix with inputs across and outputs down, what goes hatched."""

from __future__ import annotations

from collections.abc import Mapping

from app.figures.base import COLORS

#: Matrices of a layer: name, left edge, top edge, width and height in units of the drawing.
PLACES = {
    "q": (10, 26, 44, 44),
    "k": (62, 26, 44, 30),
    "v": (114, 26, 44, 30),
    "o": (166, 26, 44, 44),
    "gate": (244, 26, 44, 62),
    "up": (296, 26, 44, 62),
    "down": (348, 26, 62, 44),
}
#: What can become of a matrix, in words; the drawing shows each in its own way.
SIGNS = {
    "rows": "outputs go",
    "columns": "inputs go",
    "both": "inputs and outputs go",
    "factors": "two thin factors in its place",
    "turned": "outputs turned to other directions, then fewer",
    "zeros": "single weights become zero",
    "repaired": "inputs go, the rest is given new weights",
    "gated": "gates decide which inputs go",
}
GONE, NEW = COLORS["pruned"], COLORS["compensated"]
INK = "#7B7B7B"  # of lines and names: a picture does not know the theme, this is read on both grounds


def layer_picture(what: Mapping[str, str], extras: tuple[str, ...] = ()) -> str:
    """An SVG of one layer; ``what`` becomes of a matrix by name, a key of SIGNS; ``extras``: branch, bias, turns."""
    drawn = "".join(_matrix(name, what.get(name, "")) for name in PLACES)
    said = ", ".join(f"{name}: {SIGNS[kind]}" for name, kind in what.items()) + "".join(f", {e}" for e in extras)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 440 108" width="880" height="216" role="img" '
        f'aria-label="{said}" font-family="sans-serif" font-size="11">'
        '<defs><pattern id="rcpu-gone" width="5" height="5" patternUnits="userSpaceOnUse" '
        f'patternTransform="rotate(45)"><line x1="0" y1="0" x2="0" y2="5" stroke="{GONE}" stroke-width="2.4"/>'
        '</pattern><pattern id="rcpu-zeros" width="7" height="7" patternUnits="userSpaceOnUse">'
        f'<rect x="0" y="0" width="3" height="3" fill="{GONE}"/><rect x="4" y="4" width="2.4" height="2.4" '
        f'fill="{GONE}"/></pattern></defs>'
        f'<text x="10" y="12" fill="{INK}" opacity="0.7">attention</text>'
        f'<text x="244" y="12" fill="{INK}" opacity="0.7">MLP</text>' + drawn + _extras(extras) + "</svg>"
    )


def _matrix(name: str, kind: str) -> str:
    x, y, w, h = PLACES[name]
    label = f'<text x="{x + w / 2}" y="{y + h + 13}" text-anchor="middle" fill="{INK}">{name}</text>'
    if kind == "factors":
        return _box(x, y, 0.32 * w, h, NEW) + _box(x + 0.4 * w, y, 0.6 * w, 0.3 * h, NEW) + label
    fill = NEW if kind in ("repaired", "turned") else "none"
    body = _box(x, y, w, h, fill)
    gone_in, gone_out = kind in ("columns", "both", "repaired", "gated"), kind in ("rows", "both", "turned")
    if gone_in:
        body += _hatched(x + 0.75 * w, y, 0.25 * w, h)
    if gone_out:
        body += _hatched(x, y + 0.75 * h, w, 0.25 * h)
    if kind == "zeros":
        body += f'<rect x="{x}" y="{y}" width="{w}" height="{h}" fill="url(#rcpu-zeros)"/>'
    if kind == "gated":
        body += f'<text x="{x + 0.5 * w - 6}" y="{y + 0.6 * h}" font-size="14" fill="{NEW}">z</text>'
    return body + label


def _box(x: float, y: float, w: float, h: float, fill: str) -> str:
    shade = f'fill="{fill}" fill-opacity="0.25"' if fill != "none" else 'fill="none"'
    return f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" {shade} stroke="{INK}" stroke-opacity="0.6"/>'


def _hatched(x: float, y: float, w: float, h: float) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" fill="url(#rcpu-gone)" stroke="{GONE}"/>'


def _extras(extras: tuple[str, ...]) -> str:
    drawn = ""
    if "branch" in extras:
        drawn += _box(416, 26, 6, 44, NEW) + _box(425, 26, 12, 8, NEW)
        drawn += f'<text x="439" y="83" text-anchor="end" fill="{INK}">branch</text>'
    if "bias" in extras:
        for name in ("o", "down"):
            x, y, w, h = PLACES[name]
            drawn += f'<rect x="{x + w + 2}" y="{y}" width="4" height="{h}" fill="{NEW}"/>'
    if "turns" in extras:
        for x in (227, 430):
            drawn += f'<circle cx="{x}" cy="48" r="7" fill="none" stroke="{NEW}" stroke-width="2.5"/>'
        drawn += f'<text x="227" y="83" text-anchor="middle" fill="{INK}">turn</text>'
    return drawn
