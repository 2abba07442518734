"""Field guide: what there is to prune by, a card each, and how they did on the same model and text."""

from collections.abc import Sequence

import streamlit as st

import rcpu
from app.figures.guide import at_equal_parameters
from app.guide import CARDS, Level, Measured, layer_picture, read_measured
from app.methods import settings_of
from app.settings import change
from app.widgets import count, figure, numbers, plain

NEEDS = {
    "data": "Text",
    "gradients": "Gradients",
    "memory": "Memory beside the model",
    "loads": "Its export loads",
}


def try_it(name: str) -> None:
    """Set everything as the recipe has it and go where it is run."""
    change(**settings_of(rcpu.RECIPES[name].recipe))
    st.switch_page("../pages/prune.py")


def numbers_of(levels: Sequence[Level]) -> str:
    """What was measured of a recipe, as Markdown: a column for each amount that is gone."""
    rows = {
        "Less": [f"{level.less:.0%}" for level in levels],
        "Perplexity": [f"**{level.perplexity:.2f}**" for level in levels],
        "Parameters": [count(level.parameters) for level in levels],
        "Tokens/s ÷ dense": [f"{level.tokens_per_second:.2f}" for level in levels],
        "Time ÷ forward": [f"{level.forwards:.1f}" for level in levels],
        "Peak MiB": [f"{level.peak / 2**20:,.0f}" for level in levels],
    }
    lines = ["| " + " | ".join([name, *cells]) + " |" for name, cells in rows.items()]
    return "\n".join([lines[0], "| --- |" + " ---: |" * len(levels), *lines[1:]])


def overview(found: Measured) -> None:
    """All recipes at equal parameters."""
    dense = found.dense and found.dense[1]
    of = f"The embedded model, {found.of}. " if found.of else ""
    figure(
        at_equal_parameters(found.recipes, dense),
        "equal",
        f"{plain(of)}A recipe's ratio is found that leaves 90, 80 or 70% of the decoder layers' parameters, factors, "
        "branches and turns counted with them; for Z-Pruner weights that are not zero. `best` and FLOP learn from the "
        "calibration text, too: at 100% is what `best` learns alone. Written by `make compare`.",
    )
    levels = [(name, level) for name, known in found.recipes.items() for level in known]
    numbers(
        {
            "less": [f"{level.less:.0%}" for _, level in levels],
            "recipe": [name for name, _ in levels],
            "parameters": [level.parameters for _, level in levels],
            "of the decoder": [round(level.decoder, 4) for _, level in levels],
            "perplexity": [round(level.perplexity, 2) for _, level in levels],
            "95 %": ["–".join(f"{end:.1f}" for end in level.interval) for _, level in levels],
            "tokens/s ÷ dense": [round(level.tokens_per_second, 2) for _, level in levels],
            "÷ bare forward": [round(level.forwards, 1) for _, level in levels],
            "peak MiB": [round(level.peak / 2**20) for _, level in levels],
        },
        "compare",
    )


def card(name: str, levels: Sequence[Level]) -> None:
    """One recipe: idea, picture, formula, needs, numbers, source, and a button."""
    published = rcpu.RECIPES[name]
    with st.container(border=True, height="stretch"):
        known = CARDS.get(name)
        st.markdown(f"##### {known.title if known else name}")
        if known is None:  # a recipe that nobody has written a card for
            st.write(published.about)
        else:
            st.write(known.idea)
            st.image(layer_picture(known.leaves, known.extras), width="stretch")
            st.latex(known.formula)
            st.markdown("\n".join(f"- **{label}**: {getattr(known, field)}" for field, label in NEEDS.items()))
        if levels:
            st.markdown(numbers_of(levels))
        st.caption(plain(published.source))
        if st.button("Try it", key=f"try-{name}", icon=":material/play_arrow:"):
            try_it(name)


st.title("Field guide")
st.write(
    "What the field prunes by, on one page: the idea, what leaves a layer, and what it takes. Every card runs here, on "
    "the same model and text."
)
found = read_measured()
if found:
    overview(found)
st.caption(
    "Rectangles are the matrices of one layer, inputs across and outputs down. Hatched: what goes. Green: new weights, "
    "factors, a bias or a turn that stays."
    + (" Time is that of the prune, of a bare forward pass over its windows; memory is above the model." * bool(found))
)
names = [*(n for n in CARDS if n in rcpu.RECIPES), *(n for n in rcpu.RECIPES if n not in CARDS)]
for i in range(0, len(names), 2):
    for place, name in zip(st.columns(2), names[i : i + 2], strict=False):
        with place:
            card(name, found.recipes.get(name, ()) if found else ())
