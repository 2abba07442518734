"""Field guide: what there is to prune by, a card each, and how they did on the same model and text."""

import streamlit as st

import rcpu
from app.guide import CARDS, layer_picture
from app.methods import settings_of
from app.settings import change
from app.widgets import plain

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


def card(name: str) -> None:
    """One recipe: idea, picture, formula, needs, source, and a button."""
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
        st.caption(plain(published.source))
        if st.button("Try it", key=f"try-{name}", icon=":material/play_arrow:"):
            try_it(name)


st.title("Field guide")
st.write(
    "What the field prunes by, on one page: the idea, what leaves a layer, and what it takes. Every card runs here, on "
    "the same model and text."
)
st.caption(
    "Rectangles are the matrices of one layer, inputs across and outputs down. Hatched: what goes. Green: new weights, "
    "factors, a bias or a turn that stays."
)
names = [*(n for n in CARDS if n in rcpu.RECIPES), *(n for n in rcpu.RECIPES if n not in CARDS)]
for i in range(0, len(names), 2):
    for place, name in zip(st.columns(2), names[i : i + 2], strict=False):
        with place:
            card(name)
