"""Components that run in the browser: points that a person drags, and the way back to the top of a page.

Both are inline scripts of the app's own; what reaches them from a link are numbers that were parsed and clipped here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import streamlit as st

from app.figures.base import COLORS

LIMIT = 3.0  # points stay within this distance of the middle, so no turn takes them out of sight
PAIRS = (3, 8)  # fewest and most pairs of points
KEY = "drag"

Points = tuple[tuple[float, float], ...]


def parse_points(text: str) -> tuple[Points, Points] | None:
    """Targets Y and points Z from ``x,y;x,y;…``, targets first, drawn in to LIMIT; None if it is not that."""
    try:
        points = tuple((float(x), float(y)) for x, y in (p.split(",") for p in text.split(";")))
    except ValueError:
        return None
    pairs, odd = divmod(len(points), 2)
    if odd or not PAIRS[0] <= pairs <= PAIRS[1] or not all(math.isfinite(c) for p in points for c in p):
        return None
    far = [max(1.0, math.hypot(*p) / LIMIT) for p in points]
    clipped = tuple((x / f, y / f) for (x, y), f in zip(points, far, strict=True))
    return clipped[:pairs], clipped[pairs:]


def format_points(y: Sequence[Sequence[float]], z: Sequence[Sequence[float]]) -> str:
    """The text that :func:`parse_points` reads back, with two decimals."""
    return ";".join(f"{round(a, 2) + 0.0:g},{round(b, 2) + 0.0:g}" for a, b in (*y, *z))


HTML = """
<svg viewBox="-3.2 -3.2 6.4 6.4" role="group" aria-label="Targets Y, points Z to drag, and the turned points QZ">
  <g id="grid"></g><g id="shapes"></g><g id="handles"></g>
</svg>
"""

CSS = """
svg { width: 100%; aspect-ratio: 1; max-height: 470px; display: block; box-sizing: border-box;
      touch-action: none; user-select: none;
      border: 1px solid var(--st-border-color); border-radius: var(--st-base-radius); }
.line { stroke: var(--st-border-color); stroke-width: 0.012; }
.axis { stroke: var(--st-text-color); stroke-width: 0.012; opacity: 0.5; }
.tick { fill: var(--st-text-color); font: 0.17px var(--st-font); opacity: 0.7; }
.shape { stroke-width: 0.04; stroke-linejoin: round; }
.gap { stroke: var(--st-text-color); stroke-width: 0.015; opacity: 0.6; }
.handle { cursor: grab; stroke: var(--st-background-color); stroke-width: 0.03; }
.handle:focus { outline: none; stroke: var(--st-text-color); stroke-width: 0.06; }
.handle.held { cursor: grabbing; }
.name { font: 600 0.19px var(--st-font); text-anchor: middle; dominant-baseline: central; pointer-events: none; }
.name.y { fill: white; }
.name.z { fill: black; }
"""

JS = """
const NS = 'http://www.w3.org/2000/svg';
const boxes = new WeakMap();

function make(parent, tag, attributes) {
  const node = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  parent.appendChild(node);
  return node;
}

function start(root) {
  const svg = root.querySelector('svg');
  const box = { svg, y: [], z: [], turned: [], stamp: null, held: null, timer: null, dirty: false, send: null };
  const grid = svg.querySelector('#grid');
  for (let i = -3; i <= 3; i++) {
    const kind = i === 0 ? 'axis' : 'line';
    make(grid, 'line', { x1: i, x2: i, y1: -3.2, y2: 3.2, class: kind });
    make(grid, 'line', { y1: i, y2: i, x1: -3.2, x2: 3.2, class: kind });
    if (i) {
      make(grid, 'text', { x: i + 0.04, y: 0.18, class: 'tick' }).textContent = i;
      make(grid, 'text', { x: 0.05, y: -i - 0.04, class: 'tick' }).textContent = i;
    }
  }
  return box;
}

function clip(box, x, y) {
  const far = Math.max(1, Math.hypot(x, y) / box.limit);
  return [x, y].map((c) => Math.round((c / far) * 100) / 100);
}

function tell(box, now) {
  // At most ten messages a second, and always the last position.
  box.dirty = true;
  if (now && box.timer) { clearTimeout(box.timer); box.timer = null; }
  if (box.timer) return;
  const send = () => {
    box.timer = null;
    if (!box.dirty) return;
    box.dirty = false;
    box.send([...box.y, ...box.z].map((p) => p.join(',')).join(';'));
    box.timer = setTimeout(send, 100);
  };
  send();
}

function move(box, set, i, x, y) {
  box[set][i] = clip(box, x, y);
  place(box);
}

function path(points) {
  return points.map(([x, y]) => `${x},${-y}`).join(' ');
}

function label(set, i, [x, y]) {
  return `${set === 'y' ? 'target Y' : 'point Z'} ${i + 1} at ${x.toFixed(2)}, ${y.toFixed(2)}; arrow keys move it`;
}

function build(box) {
  const shapes = box.svg.querySelector('#shapes'), handles = box.svg.querySelector('#handles');
  shapes.replaceChildren();
  handles.replaceChildren();
  box.shapes = {};
  for (const set of ['y', 'z', 'turned']) {
    const dash = set === 'turned' ? '0.12 0.07' : 'none', color = box.colors[set];
    box.shapes[set] = make(shapes, 'polygon', {
      class: 'shape', stroke: color, fill: color, 'fill-opacity': 0.08, 'stroke-dasharray': dash,
    });
  }
  box.gaps = box.y.map(() => make(shapes, 'line', { class: 'gap' }));
  box.ends = box.y.map(() => make(shapes, 'circle', { class: 'end', r: 0.07, fill: box.colors.turned }));
  box.nodes = { y: [], z: [] };
  for (const set of ['y', 'z']) {
    box[set].forEach((_, i) => {
      const node = set === 'y'
        ? make(handles, 'circle', { r: 0.14 })
        : make(handles, 'rect', { width: 0.26, height: 0.26, rx: 0.03 });
      node.setAttribute('class', 'handle');
      node.setAttribute('fill', box.colors[set]);
      node.setAttribute('tabindex', 0);
      node.setAttribute('role', 'button');
      node.dataset.point = `${set}${i}`;
      const name = make(handles, 'text', { class: `name ${set}` });
      name.textContent = i + 1;
      box.nodes[set].push({ node, name });
      const at = (event) => {
        const p = new DOMPoint(event.clientX, event.clientY).matrixTransform(box.svg.getScreenCTM().inverse());
        return [p.x, -p.y];
      };
      node.onpointerdown = (event) => {
        event.preventDefault();
        node.focus();
        node.setPointerCapture(event.pointerId);
        const [x, y] = at(event);
        box.held = { set, i, dx: box[set][i][0] - x, dy: box[set][i][1] - y };
        node.classList.add('held');
      };
      node.onpointermove = (event) => {
        if (!box.held) return;
        const [x, y] = at(event);
        move(box, set, i, x + box.held.dx, y + box.held.dy);
        tell(box, false);
      };
      node.onpointerup = node.onpointercancel = () => {
        if (!box.held) return;
        box.held = null;
        node.classList.remove('held');
        tell(box, true);
      };
      node.onkeydown = (event) => {
        const step = event.shiftKey ? 0.5 : 0.1;
        const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
        if (!way) return;
        event.preventDefault();
        const [x, y] = box[set][i];
        move(box, set, i, x + way[0] * step, y + way[1] * step);
        tell(box, false);
      };
    });
  }
}

function place(box) {
  box.shapes.y.setAttribute('points', path(box.y));
  box.shapes.z.setAttribute('points', path(box.z));
  box.shapes.turned.setAttribute('points', path(box.turned));
  box.gaps.forEach((line, i) => {
    const [from, to] = [box.turned[i] ?? box.y[i], box.y[i]];
    line.setAttribute('x1', from[0]);
    line.setAttribute('y1', -from[1]);
    line.setAttribute('x2', to[0]);
    line.setAttribute('y2', -to[1]);
    box.ends[i].setAttribute('cx', from[0]);
    box.ends[i].setAttribute('cy', -from[1]);
  });
  for (const set of ['y', 'z']) {
    box[set].forEach(([x, y], i) => {
      const { node, name } = box.nodes[set][i];
      if (set === 'y') {
        node.setAttribute('cx', x);
        node.setAttribute('cy', -y);
      } else {
        node.setAttribute('x', x - 0.13);
        node.setAttribute('y', -y - 0.13);
      }
      node.setAttribute('aria-label', label(set, i, [x, y]));
      name.setAttribute('x', x);
      name.setAttribute('y', -y);
    });
  }
}

export default function (component) {
  const { data, parentElement, setStateValue } = component;
  let box = boxes.get(parentElement);
  if (!box) {
    box = start(parentElement);
    boxes.set(parentElement, box);
  }
  box.send = (points) => setStateValue('points', points);
  box.limit = data.limit;
  box.colors = data.colors;
  box.turned = data.turned;
  // Points that were set elsewhere are taken over; the echo of those that were dragged here is older than the hand.
  if (box.stamp !== data.stamp) {
    box.stamp = data.stamp;
    box.y = data.y;
    box.z = data.z;
    box.dirty = false;
    build(box);
  }
  place(box);
}
"""

SCROLL = """
let seen = null;
export default function (component) {
  const { data, parentElement } = component;
  const anchor = parentElement.querySelector('div');
  if (seen !== null && seen !== data.place) anchor.scrollIntoView({ block: 'end' });
  seen = data.place;
}
"""


def drag(y: Points, z: Points, turned: Sequence[Sequence[float]], stamp: str, changed: Callable[[str], None]) -> None:
    """Draw the points; ``changed`` gets their text whenever a person moved one.

    ``stamp`` changes whenever the points were set by something else than this component.
    """

    def moved() -> None:
        state = st.session_state.get(KEY) or {}
        if isinstance(text := state.get("points"), str) and parse_points(text):
            changed(text)

    component = st.components.v2.component("rcpu_drag", html=HTML, css=CSS, js=JS)
    component(
        key=KEY,
        data={
            "y": [list(p) for p in y],
            "z": [list(p) for p in z],
            "turned": [list(p) for p in turned],
            "stamp": stamp,
            "limit": LIMIT,
            "colors": {"y": COLORS["dense"], "z": COLORS["pruned"], "turned": COLORS["compensated"]},
        },
        on_points_change=moved,
    )


def to_top(place: int) -> None:
    """Scroll here when ``place`` changes: the next lesson begins where it begins."""
    st.components.v2.component("rcpu_to_top", html="<div></div>", js=SCROLL)(key="to-top", data={"place": place})
