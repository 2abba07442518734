"""Allocation: what each layer and site costs as it shrinks, and how a budget is shared by that."""

import streamlit as st

from app.dense import need_model, ratio_slider
from app.figures import allocation as figures
from app.job_panels import job_panel, known_job, start
from app.labels import SITES, UNITS, called
from app.pricing import OPTIONS, price_asked, price_job
from app.settings import PageEnd, control, settings
from app.tiles import Tile, difference, percent, tiles
from app.widgets import abreast, figure, say
from rcpu import RcpuError

COST = (
    "By K-FAC a change ΔW of a projection costs ½ tr(Γ ΔW C ΔWᵀ) nats a token. Γ is the mean of g gᵀ, g the gradient "
    "of the calibration loss by the outputs of a token; C the moments of the inputs, weighted by ‖g‖² (Martens and "
    "Grosse 2015). ΔW is what a ridge fit toward W leaves after the cheapest units went; the square root is "
    "interpolated between nine levels, to at most 70%. Dark lines are early layers; dots: what the shared budget takes."
)
SHARED = (
    "min Σ cost of all sites at the number of parameters that the ratio removes: each site loses units until the next "
    "one would cost more than μ a parameter, and μ is found by bisection. The dashed line is the share if every layer "
    "lost alike, as in most papers."
)

st.title("Allocation")
st.write("Not every layer is worth the same: price each of them in nats, and take the budget where it is cheapest.")
model = need_model()
s = settings()
with st.container(horizontal=True, vertical_alignment="bottom", key="removal"):
    ratio_slider()
    control(st.selectbox, "Unit of o_proj", "unit", options=list(UNITS), format_func=called(UNITS))
try:
    recipe = s.recipe("columns")
    asked = price_asked(model, recipe)
except RcpuError as error:
    say(error)
    raise PageEnd from error
job = known_job("prices")
told, button = st.columns([3, 1], vertical_alignment="bottom")
told.caption(
    f"One forward and one backward over {s.samples} windows of {s.window} tokens, a layer at a time: about four bare "
    f"forwards, no training. Repairs are taken as a ridge fit with λ = {OPTIONS['ridge']:g} and a bias."
)
if button.button("Price the model", type="primary", width="stretch", icon=":material/play_arrow:"):
    start("prices", lambda: price_job(model, recipe))
if job is None:
    st.caption("Nothing priced yet. Curves of every layer appear here, with the allocation that follows.")
    raise PageEnd
job_panel(job)
if job.state != "done":
    raise PageEnd
found = job.result
if job.asks != asked:
    st.info("The settings have changed since: price the model again to see what they say.", icon=":material/info:")
alike, shared = found.cost(found.uniform), found.cost(found.chosen)
most = max(found.chosen, key=lambda key: found.chosen[key] / found.units[key[1]])
least = min(found.chosen, key=lambda key: found.chosen[key] / found.units[key[1]])
tiles(
    Tile("Predicted, all alike", f"{alike:.3f}", "nats a token"),
    Tile("Predicted, shared", f"{shared:.3f}", difference(shared, alike), shared < alike),
    Tile("Loses most", f"layer {most[0]}", f"{most[1]}, {percent(found.chosen[most] / found.units[most[1]])}"),
    Tile("Loses least", f"layer {least[0]}", f"{least[1]}, {percent(found.chosen[least] / found.units[least[1]])}"),
)
site = control(
    st.segmented_control, "Projection", "site", options=[n for n in SITES if n in found.units], required=True
)
left, right = abreast("prices")
with left:
    figure(figures.price_curves(found, site), "prices", COST)
with right:
    gone = {key: n / found.units[key[1]] for key, n in found.chosen.items()}
    figure(figures.shares(gone, "What the shared budget takes", recipe.ratio), "allocation", SHARED)
st.caption(
    "Prices are predictions for small changes, one site at a time; what a run with allocation *prices* then gives is "
    "measured on Compare."
)
