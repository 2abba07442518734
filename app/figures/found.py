"""What a whole method found on its way, as figures; a method that nobody drew for gets lines and heat maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from torch import Tensor

from app.figures.base import COLORS, NEUTRAL, new_figure

Found = Mapping[str, Tensor]
MATRICES = ("q", "k", "v", "o", "gate", "up", "down")
FEW = 6  # curves of one figure
RIGHT = {"overlaying": "y", "side": "right", "automargin": True}  # a second y axis


@dataclass(frozen=True)
class Look:
    """One figure with its words; ``needs`` are the results that it draws."""

    name: str
    needs: tuple[str, ...]
    draw: Callable[[Found], go.Figure]
    words: str


def looks(method: str, found: Found) -> list[tuple[str, go.Figure, str]]:
    """(name, figure, words) for what this method found."""
    own = [look for look in LOOKS.get(method, ()) if all(found.get(n) is not None for n in look.needs)]
    drawn = {name for look in own for name in look.needs}
    rest = [(name, plain(name, t), f"What the method calls {name}.") for name, t in found.items() if name not in drawn]
    return [(look.name, look.draw(found), look.words) for look in own] + (rest if not own else [])


def plain(name: str, values: Tensor) -> go.Figure:
    """A line for a vector, a heat map for what is more."""
    title = name.replace("_", " ").capitalize()
    figure = new_figure(title, "number", "" if values.ndim > 1 else "value", title)
    flat = values.double().reshape(len(values), -1).numpy() if values.ndim > 1 else values.double().numpy()
    if flat.ndim == 1:
        return figure.add_scatter(y=flat, mode="lines+markers", line={"color": COLORS["dense"]})
    return figure.add_heatmap(z=flat.T, colorscale="Viridis")


def _layers(title: str, y: str, values: np.ndarray, *, colors=None, form: str = ".3f", **layout) -> go.Figure:
    figure = new_figure(title, "layer", y, title, xaxis={"tick0": 0, "dtick": 1 if len(values) < 34 else 2}, **layout)
    return figure.add_bar(
        x=list(range(len(values))),
        y=values,
        marker_color=colors or COLORS["dense"],
        hovertemplate=f"layer %{{x}}: %{{y:{form}}}<extra></extra>",
    )


def stream_axes(found: Found) -> go.Figure:
    """SliceGPT: how much of the residual stream lies beyond the first r axes, from the first block to the last."""
    moments, kept = found["moments"].double(), found["kept"].double()
    share = 1 - moments.cumsum(1) / moments.sum(1, keepdim=True)
    width = int((share[0] - (1 - kept[0])).abs().argmin()) + 1
    figure = new_figure(
        "Principal components of the residual stream",
        "axes kept, r",
        "share of the stream beyond them",
        f"Share of the residual stream's second moment beyond its first r axes, before {len(share)} blocks",
        height=420,
        yaxis={"type": "log", "exponentformat": "power"},
    )
    chosen = np.unique(np.linspace(0, len(share) - 1, FEW).astype(int))
    for place, color in zip(chosen, shades(len(chosen)), strict=True):
        name = f"layer {place // 2}, {'MLP' if place % 2 else 'attention'}" if place < len(share) - 1 else "the end"
        figure.add_scatter(
            x=np.arange(1, share.shape[1]),
            y=share[place, :-1].clamp_min(1e-12).numpy(),
            name=name,
            mode="lines",
            line={"color": color},
            hovertemplate="%{x} axes: %{y:.2%} beyond<extra>" + name + "</extra>",
        )
    figure.add_vline(width, line={"dash": "dash", "color": NEUTRAL}, annotation_text="sliced")
    return figure


def stream_left(found: Found) -> go.Figure:
    """SliceGPT: what slicing leaves of the stream before each block."""
    lost = (1 - found["kept"].double()).numpy()
    return new_figure(
        "What slicing takes from the stream", "block, attention and MLP in turn", "share of the second moment", "lost"
    ).add_bar(x=list(range(len(lost))), y=lost, marker_color=COLORS["pruned"])


def linearity(found: Found) -> go.Figure:
    """Olica: how linear each MLP is, and which get a branch."""
    linear, branched = found["linear"].double().numpy(), set(found["branched"].tolist())
    colors = [COLORS["compensated"] if i in branched else COLORS["dense"] for i in range(len(linear))]
    return _layers("How linear each MLP is", "mean correlation of a linear fit", linear, colors=colors)


def branches(found: Found) -> go.Figure:
    """Olica: what each branch brings back."""
    return _layers(
        "What the branches bring",
        "share of the lost output brought back",
        found["brought"].double().numpy(),
        form=".1%",
    )


def influence(found: Found) -> go.Figure:
    """MoDeGPT: what each layer changes, and the ratio that follows."""
    ratios = found["ratios"].double().numpy()
    figure = _layers("What each layer loses", "share removed", ratios, form=".1%")
    if len(found["influence"]):
        figure.add_scatter(
            x=list(range(len(ratios))),
            y=found["influence"].double().numpy(),
            name="influence, 1 − cos",
            yaxis="y2",
            mode="lines+markers",
            line={"color": COLORS["pruned"]},
            hovertemplate="layer %{x}: 1 − cos = %{y:.3f}<extra></extra>",
        )
        figure.update_layout(yaxis2=RIGHT | {"title": "1 − cos of input and output"})
    return figure


def value_products(found: Found) -> go.Figure:
    """MoDeGPT: singular values of value and output products, the mean over KV heads, a curve for some layers."""
    values = found["values"].double().mean(1)  # (layers, dim)
    figure = new_figure(
        "Spectra of values and outputs",
        "direction",
        "singular value ÷ the largest",
        "Singular values of C^½ W_v W_o by layer",
        yaxis={"type": "log", "exponentformat": "power"},
    )
    chosen = np.unique(np.linspace(0, len(values) - 1, FEW).astype(int))
    for place, color in zip(chosen, shades(len(chosen)), strict=True):
        row = (values[place] / values[place].max().clamp_min(1e-30)).clamp_min(1e-9).numpy()
        figure.add_scatter(x=np.arange(1, len(row) + 1), y=row, name=f"layer {place}", line={"color": color})
    return figure


def matrices(name: str, title: str, bar: str) -> Callable[[Found], go.Figure]:
    """A heat map, layers across and matrices down."""

    def draw(found: Found) -> go.Figure:
        values = found[name].double().numpy()
        figure = new_figure(title, "layer", "", title)
        rows = MATRICES[-values.shape[1] :] if values.shape[1] <= len(MATRICES) else list(range(values.shape[1]))
        return figure.add_heatmap(
            z=values.T,
            y=rows,
            colorscale="Viridis",
            colorbar={"title": bar, "tickformat": ".0%"},
            hovertemplate="layer %{x}, %{y}: %{z:.1%}<extra></extra>",
        )

    return draw


def slopes(found: Found) -> go.Figure:
    """MINI-LLM: the loss on either side of the weights, draw by draw."""
    losses = found["losses"].double().numpy()
    figure = new_figure(
        "Losses at θ ± εz", "draw", "calibration loss in nats a token", "Losses on either side of the weights"
    )
    for side, name in enumerate(("θ + εz", "θ − εz")):
        figure.add_scatter(y=losses[:, side], name=name, mode="markers+lines")
    return figure


def learning(found: Found) -> go.Figure:
    """FLOP: the loss and the size that the gates expect, step by step."""
    curves = found["curves"].double().numpy()  # loss, share gone, two multipliers
    figure = new_figure("How the gates learned", "step", "loss in nats a token", "Loss and size while gates learn")
    names = (("loss of the batch", 0, "dense", "y"), ("share expected to go", 1, "pruned", "y2"))
    for name, column, color, axis in names:
        figure.add_scatter(y=curves[:, column], name=name, yaxis=axis, mode="lines", line={"color": COLORS[color]})
    if (asked := found.get("asked")) is not None:  # runs of earlier versions do not say
        figure.add_scatter(
            x=[0, len(curves) - 1],
            y=[asked.item()] * 2,
            name="share asked for",
            yaxis="y2",
            mode="lines",
            line={"color": NEUTRAL, "dash": "dash"},
        )
    size = {"title": "share of parameters gone", "tickformat": ".0%", "rangemode": "tozero"}
    return figure.update_layout(yaxis2=RIGHT | size)


def gates_closed(found: Found) -> go.Figure:
    """FLOP: the share of gates that closed, by layer and matrix."""
    shares = found["closed"].double().numpy()
    figure = new_figure("Where gates closed", "layer", "", "Share of the gates that closed, by layer and matrix")
    return figure.add_heatmap(
        z=shares.T,
        y=MATRICES if shares.shape[1] == len(MATRICES) else ("o", "down"),
        colorscale="Viridis",
        colorbar={"title": "closed", "tickformat": ".0%"},
        hovertemplate="layer %{x}, %{y}: %{z:.1%}<extra></extra>",
    )


def blocks_gone(found: Found) -> go.Figure:
    """2SSP: the loss without each attention block, a line for each block that went."""
    losses, gone = found["losses"].double().numpy(), found["gone"].tolist()
    figure = new_figure(
        "The loss without a block",
        "layer whose attention is left out",
        "calibration loss in nats a token",
        "Loss without each attention block, block after block",
    )
    for n, (row, color) in enumerate(zip(losses, shades(len(losses)), strict=True)):
        name = f"{n + 1}: layer {gone[n]} goes"
        sizes = [11 if i == gone[n] else 5 for i in range(len(row))]
        figure.add_scatter(y=row, name=name, mode="lines+markers", marker={"size": sizes}, line={"color": color})
    return figure


def shades(count: int) -> list[str]:
    """Colours for curves in an order, dark to light."""
    return sample_colorscale("Viridis", np.linspace(0, 0.9, max(count, 1)))


STREAM = (
    "Eigenvalues of Σ h hᵀ of the residual stream that enters a block, not centred. SliceGPT (Ashkboos et al., ICLR "
    "2024) turns every matrix into these axes and slices off the last ones; beyond the dashed line it is lost."
)
LOOKS = {
    "slicegpt": (
        Look("stream", ("moments", "kept"), stream_axes, STREAM),
        Look("sliced", ("kept",), stream_left, "1 − Σ of the kept eigenvalues ÷ Σ of all, before each block."),
    ),
    "olica": (
        Look(
            "linear",
            ("linear", "branched"),
            linearity,
            "Mean Pearson correlation of a ridge fit from an MLP's input to its output on the dense path. Green: the "
            "layers that get a linear branch x U V, those where it is highest, the last one left out (He & Lin, ICML "
            "2025).",
        ),
        Look("brought", ("brought",), branches, "1 − ‖E − x U V‖² ÷ ‖E‖², E what the narrowed MLP lacks."),
    ),
    "modegpt": (
        Look(
            "influence",
            ("influence", "ratios"),
            influence,
            "Ratios are L · ρ · softmax(−(1 − cos)/ε), cos that of a layer's input and output: layers that change the "
            "stream less lose more (MoDeGPT, ICLR 2025).",
        ),
        Look(
            "values",
            ("values",),
            value_products,
            "Singular values of S Vᵀ W_o, C^½ W_v = U S Vᵀ.",
        ),
    ),
    "z-pruner": (
        Look("zeros", ("zeros",), matrices("zeros", "Where the zeros lie", "zeros"), "Share of a matrix set to zero."),
    ),
    "mini-llm": (
        Look(
            "losses",
            ("losses", "slopes"),
            slopes,
            "Each draw moves all weights by ±εz; (L₊ − L₋) ÷ 2ε times z estimates the gradient (SPSA, Spall 1992). "
            "Lines that lie together say little, lines apart say much.",
        ),
    ),
    "svd-llm": (
        Look(
            "left_out",
            ("left_out",),
            matrices("left_out", "What the factors leave out", "left out"),
            "Σ of the dropped σ² ÷ Σ of all, of each whitened matrix W L (SVD-LLM, ICLR 2025).",
        ),
    ),
    "flop": (
        Look(
            "curves",
            ("curves",),
            learning,
            "Gates learn loss + λ₁(s − t) + λ₂(s − t)², s the share that is expected to go and t the share asked for; "
            "dashed; both λ grow with the gap (Wang, Wohlwend & Lei, EMNLP 2020). Weights stay as they are.",
        ),
        Look("closed", ("closed", "shift"), gates_closed, "1 − E‖z‖₀ ÷ n of each family of n gates, met exactly."),
    ),
    "2ssp": (
        Look(
            "losses",
            ("losses", "gone"),
            blocks_gone,
            "Each line tries every attention block that is left; the block without which the loss is lowest goes "
            "(2SSP, Sandri et al. 2025).",
        ),
    ),
}
