"""Importance: which units a ratio takes, what makes a unit important, and what a single unit reacts to."""

import streamlit as st
from torch import Tensor

from app.answers import work_out_neighbours, work_out_sites
from app.answers.importance import (
    ANSWERS,
    cut_answer,
    factors_answer,
    greedy_answer,
    layers_answer,
    scorers_answer,
    values_answer,
)
from app.dense import DENSE_PATH, Dense, need_model, need_statistics, pick_projection, pick_removal
from app.figures import importance as figures
from app.figures.ranking import unit_name
from app.labels import PAPER
from app.settings import change, control, part, settings
from app.shared import windows
from app.spans import diff_spans, legend, token_spans
from app.tiles import Tile, percent, tiles
from app.widgets import abreast, figure, numbers
from rcpu.explain import FACTORS, Projection, activations, exciting, factors
from rcpu.methods import UNIT_NAMES, Removal
from rcpu.models import SITES
from rcpu.text import token_pieces

VIEWS = {
    "cut": "Scores and cut",
    "layers": "All layers",
    "factors": "Three factors",
    "scorers": "Scorers compared",
    "greedy": "Greedy path",
    "values": "Value spectra",
    "unit": "One unit",
}
CONTEXT = 6  # tokens before and after one that is shown


def times(most: float, usual: float) -> str:
    """How many times as much, a dash where there is nothing to compare with."""
    return "–" if usual <= 0 else f"{most / usual:,.1f}" if most < 1e5 * usual else f"{most / usual:.1e}"


def show_cut(dense: Dense, projection: Projection) -> None:
    """Sorted scores; a click shows the unit below."""
    seen = cut_answer(dense, projection, settings())
    removal, error = seen.removal, seen.error
    scores, keep = removal.unit_scores, removal.keep
    gone, kind = int((~keep).sum()), dense.unit(projection.site)
    tiles(
        Tile(
            f"{UNIT_NAMES[kind][0].upper()}{UNIT_NAMES[kind][1:]} that go",
            f"{gone:,}",
            f"of {keep.numel():,}",
            help="" if keep.shape[0] == 1 else f"The same number in each of {keep.shape[0]} KV heads",
        ),
        Tile("Their share of all score", percent(scores[~keep].sum().item(), scores.sum().item())),
        Tile(
            "Most important ÷ median",
            times(scores.max().item(), scores.quantile(0.5).item()),
            help="How uneven the scores are: a few units far above the others make the choice easy",
        ),
        Tile(
            "Output error, not repaired",
            percent(error.calibration),
            help="‖Y − W_K X_K‖ ÷ ‖Y‖ on the calibration windows"
            + ("" if error.held_out is None else f"; {percent(error.held_out)} on held-out ones"),
        ),
    )
    figure(
        seen.scores,
        "scores",
        "Units in the order of their scores. A unit's score is the sum of γ_j over its input columns j; the RCPU score "
        f"is γ_j = ‖W_j‖₂ · mean|x_j| · Var(x_j) ({PAPER}). ⌊ratio · n⌋ units of the lowest score go; value channels "
        "compete within their KV head, so that every head stays equally wide. **Click a point** to see its unit below; "
        "of many units only some have a point, the others lie on the line.",
        on_pick=lambda units: units and change(shown_unit=units[0]),
    )
    if seen.shown < 0:
        st.caption("Click a point, or choose **One unit** above, to see a unit's weights, activations and tokens.")
    else:
        unit_panel(dense, projection, removal, seen.shown)


def show_layers(dense: Dense) -> None:
    """Scores of all layers as heat maps."""
    pick, switch = st.columns([2, 4], vertical_alignment="bottom")
    with pick:
        site = control(st.segmented_control, "Projection", "site", options=list(SITES), required=True, width="stretch")
    with switch:
        control(st.toggle, "Relative to the layer's median", "relative", help="Units compete within their layer")
    seen = layers_answer(dense, site, settings())
    figure(
        seen.units,
        "layers",
        "A column is a layer. Many units are sorted within it, the most important on top, and thinned to at most 96 "
        "evenly spaced ranks; what is below the dashed line, or crossed where every unit has its row, goes. Every "
        f"layer loses the same share ({PAPER}) unless it has a ratio of its own, however its scores compare with those "
        "of other layers. Colours are logarithmic; the highest and lowest 2% of many cells share the last ones.",
    )
    if seen.heads:
        figure(
            seen.heads,
            "heads",
            "Σ γ_j over the columns of a query head ÷ Σ γ_j over the layer: where a layer's importance sits. "
            f"With one KV head a query head these are the units that RCPU removes ({PAPER}); heads that share "
            "KV heads cannot leave alone.",
        )


def show_factors(dense: Dense, projection: Projection) -> None:
    """The parts of the RCPU score, and the choice without each of them."""
    seen = factors_answer(dense, projection, settings())
    tiles(
        *(
            Tile(
                f"Order set by {FACTORS[name][0]}",
                "–" if share != share else percent(share),
                help="cov(ln f, ln γ) ÷ var(ln γ) over the input columns; the three add up to 100%",
            )
            for name, share in seen.shares.items()
        )
    )
    figure(
        seen.parts,
        "factors",
        "γ_j = ‖W_j‖₂ · mean|x_j| · Var(x_j): the three factors of the input columns, each ÷ its median, in the order "
        "of their product. Lines are medians of neighbouring ranks, bands hold the middle 80% of them. A flat line "
        f"hardly matters for the order; the steepest one decides it ({PAPER}).",
    )
    figure(
        seen.swaps,
        "swaps",
        "Keep the ⌈(1 − ratio) n⌉ units of the largest product of two factors instead of three. All rows have the "
        "units in the same order, by the whole score: orange on the left of the first row's edge goes only for "
        f"want of that factor. {PAPER} gives no such ablation.",
    )
    numbers(seen.rows, "factors-table", "Errors are ‖Y − W_K X_K‖ ÷ ‖Y‖ of this projection with nothing repaired.")


def show_scorers(dense: Dense, projection: Projection) -> None:
    """How far scorers agree in this projection."""
    seen = scorers_answer(dense, projection, settings())
    left, right = abreast("scorers")
    with left:
        figure(
            seen.overlap,
            "overlap",
            f"|R_a ∩ R_b| ÷ |R_a|, with R the {seen.gone:,} units that go by each score. 1: both remove the same. Two "
            f"random choices share about the ratio itself, here {dense.config.ratio_of(projection.layer):.2f}. Scores: "
            f"RCPU and WANDA-sp as in {PAPER}; FLAP: An et al., AAAI 2024.",
        )
    with right:
        figure(
            seen.correlation,
            "correlation",
            "Spearman's ρ of all units' scores: 1 for the same order, 0 for none in common, −1 for the reverse. It "
            "weighs the whole order, the overlap only what happens at the cut (Spearman 1904; scores as at the left).",
        )
    numbers(
        seen.rows,
        "scorers-table",
        "Errors are ‖Y − W_K X_K‖ ÷ ‖Y‖ of this projection with nothing repaired. A score of smaller error here need "
        "not be better once the rest is repaired: see Spectrum and rotation.",
    )


def show_greedy(dense: Dense, projection: Projection) -> None:
    """The error as units go, by the order in which they do."""
    seen = greedy_answer(dense, projection, settings())
    tiles(
        Tile("Chosen score, not refitted", percent(seen.plain), help="‖Y − W_K X_K‖ ÷ ‖Y‖ at the ratio"),
        Tile("Chosen score, refitted", percent(seen.scored), help="The same units gone, the others by least squares"),
        Tile("Greedy, refitted", percent(seen.greedy), help="At each step the unit whose loss costs least goes"),
    )
    figure(
        seen.paths,
        "greedy",
        "With H = XXᵀ + λ·mean diag·I, losing column j costs ‖W_j‖² ÷ [H⁻¹]_jj once the others make up for it (optimal "
        "brain surgeon, Hassibi and Stork 1993; for structures ZipLM, Kurtic et al. 2023). **Greedy** removes the "
        "cheapest, repairs W and H⁻¹, and looks again; **cost at the start** takes these numbers once. λ = 0.01. "
        "Errors are of the calibration windows in the metric H, so they say what a fit can reach, not what holds on "
        "other text.",
    )


def show_values(dense: Dense, projection: Projection) -> None:
    """How narrow the values of each KV head could be."""
    seen = values_answer(dense, projection, settings())
    tiles(
        Tile("Value dimensions kept", f"{seen.kept}", f"of {seen.dim} in every KV head"),
        Tile("Output lost, best channels", percent(seen.channels), help="Mean over KV heads, the others refitted"),
        Tile("Output lost, best directions", percent(seen.subspace), help="Mean over KV heads"),
    )
    figure(
        seen.spectra,
        "values",
        "A head's values may be narrower in any directions, not only in those of its channels: an encoder E goes into "
        "v_proj and a decoder into o_proj, with as many parameters as that many channels have. Solid: what is lost of "
        "Σ_h ‖W_h v‖² with the top eigenvectors of C^½ (Σ_h W_hᵀ W_h) C^½, C the second moment of the values and h the "
        "query heads that share them. Dotted: channels, the cheapest gone one after another, the others refitted. "
        "Heads are taken as uncorrelated (SVD of values and outputs: MoDeGPT, ICLR 2025; Olica, ICML 2025).",
    )


def show_unit(dense: Dense, projection: Projection) -> None:
    """A unit chosen by number."""
    removal = dense.removal(projection)
    last = removal.keep.numel() - 1
    if not 0 <= settings().shown_unit <= last:
        change(shown_unit=int(removal.unit_scores.flatten().argmax()))
    pick, note = st.columns([1, 3], vertical_alignment="bottom")
    with pick:
        unit = control(st.number_input, "Unit", "shown_unit", min_value=0, max_value=last, step=1)
    strata, units = removal.keep.shape
    kind = UNIT_NAMES[dense.unit(projection.site)]
    note.caption(
        f"{kind.capitalize()} 0 to {last:,}"
        + (f": {units:,} value channels of KV head 0, then those of the next" if strata > 1 else "")
        + ". At first the most important one is shown."
    )
    unit_panel(dense, projection, removal, unit)


def unit_panel(dense: Dense, projection: Projection, removal: Removal, unit: int) -> None:
    """One unit: its score and weights among the others, its activations, and the tokens that excite it most."""
    strata, units = removal.keep.shape
    layout = dense.layout(projection.site)
    columns = layout.flatten(0, 1)[unit]
    name = unit_name(unit, strata, units, dense.unit(projection.site))
    keeps = bool(removal.keep.flatten()[unit])
    st.subheader(f"{name[0].upper()}{name[1:]} {'stays' if keeps else 'goes'}")
    parts = factors(projection.weight, projection.x)
    measures = {
        "Score": removal.unit_scores,
        "Weights ‖W_U‖": (parts["weight"] ** 2)[layout].sum(-1).sqrt(),
        "mean|x|": parts["activation"][layout].mean(-1),
        "Var(x)": parts["variance"][layout].mean(-1),
    }

    def measured(label: str, values: Tensor) -> Tile:
        value, rivals = values.flatten()[unit], values[unit // units]
        rank = int((rivals > value).sum()) + 1
        return Tile(label, f"{value:.3g}", f"rank {rank:,} of {units:,}" + (" in its KV head" if strata > 1 else ""))

    tiles(*(measured(label, values) for label, values in measures.items()))
    values = activations(projection.sample, columns)
    left, right = abreast("unit")
    with left:
        figure(
            figures.activations(values, name, signed=len(columns) == 1),
            "activations",
            f"How often the {'input x_j' if len(columns) == 1 else 'norm ‖x_U‖ of the unit’s inputs'} took which value "
            f"on the first {len(values)} calibration windows; the count has a log axis. The score sees only mean|x| "
            f"and Var(x) of it: a long tail raises the variance by a few tokens alone ({PAPER}).",
            of=name,
        )
    drawn = windows().get(dense.model, dense.config)
    if drawn is None:
        right.caption("Tokens are not shown: the windows of this long text are no longer in memory.")
        return
    found = exciting(values, apart=CONTEXT)
    with right:
        st.markdown("**Tokens that excite it most**")
        if not found:
            st.caption("It is 0 at every sampled token.")
        pieces = {e.window: token_pieces(dense.model.tokenizer, drawn.calibration[e.window].tolist()) for e in found}
        for e in found:
            number, text = st.columns([1, 4], gap="small")
            number.markdown(f"**{e.value:.3g}** :gray[{e.window}:{e.position}]")
            near = range(max(0, e.position - CONTEXT), min(values.shape[1], e.position + CONTEXT + 1))
            line = [(pieces[e.window][i].replace("\n", "↵"), i == e.position) for i in near]  # on one line
            text.html(diff_spans(line))
        st.caption("Activation, window:token, and the six tokens on either side; ↵ is a line end.")
    if found:
        best = found[0].window
        top = values[best].abs()
        with st.expander(f"The window it reacts to most, number {best}"):
            st.html(legend(0, top.max().item(), "|activation|"))
            st.html(
                token_spans(
                    pieces[best],
                    top.tolist(),
                    0,
                    top.max().item(),
                    [f"token {i}\nactivation {v:.4g}" for i, v in enumerate(values[best].tolist())],
                )
            )


SHOWN = {
    "cut": show_cut,
    "factors": show_factors,
    "scorers": show_scorers,
    "greedy": show_greedy,
    "values": show_values,
    "unit": show_unit,
}


@part
def explore() -> None:
    """The settings, and the view of them that was chosen."""
    need_model()
    pick_removal()
    dense = need_statistics()
    view = control(
        st.segmented_control,
        "View",
        "view",
        options=list(VIEWS),
        format_func=VIEWS.get,
        required=True,
        label_visibility="collapsed",
    )
    if view == "layers":
        show_layers(dense)
        work_out_sites(layers_answer, dense, settings().site)
    else:
        projection = pick_projection(dense)
        SHOWN[view](dense, projection)
        work_out_neighbours(ANSWERS[view], dense, projection)
    st.caption(DENSE_PATH)


st.title("Importance")
st.write("See what a score would keep at any ratio, layer by layer, and why, before anything is pruned.")
explore()
