"""Every page: navigation, the jobs, and the settings in the URL."""

import contextlib
from pathlib import Path

import streamlit as st

from app.demo import limits
from app.job_panels import jobs_sidebar
from app.settings import PageEnd, follow_history, settings, unread, write_url
from app.widgets import plain
from rcpu import RcpuError

ASSETS = Path(__file__).parent.parent / "assets"
ICON, LOGO = str(ASSETS / "icon.svg"), str(ASSETS / "logo.svg")
st.set_page_config(page_title="RCPU Explorer", page_icon=ICON, layout="wide")
st.html(Path(__file__).with_name("style.css"))
st.logo(LOGO, size="large", icon_image=ICON)


#: The story: every page leads to the next of them. Name, title, icon.
STORY = {
    "": [("start", "Start", "explore")],
    "Prepare": [("model", "Model", "deployed_code"), ("calibration", "Calibration", "dataset")],
    "Understand": [
        ("importance", "Importance", "bar_chart"),
        ("rotation", "Spectrum and rotation", "360"),
        ("allocation", "Allocation", "stacked_bar_chart"),
    ],
    "Prune": [
        ("prune", "Prune", "content_cut"),
        ("compare", "Compare", "compare_arrows"),
        ("benchmarks", "Benchmarks", "quiz"),
    ],
    "Prove": [("experiments", "Experiments", "science"), ("runs", "Runs", "inventory_2")],
    "Teach": [("learn", "Learn", "school"), ("guide", "Field guide", "menu_book")],
}


def page(name: str, title: str, icon: str) -> st.Page:
    """One file of pages/."""
    first = name == "start"
    return st.Page(f"../pages/{name}.py", title=title, icon=f":material/{icon}:", url_path=name, default=first)


try:
    demo = limits().demo
except RcpuError as error:  # of the person who serves it, not of a visitor
    st.error(str(error))
    st.stop()
settings()
follow_history()
if not st.query_params:  # on the way to another page: the browser then gets there and to its settings in one step
    write_url()
for sentence in unread():
    st.toast(plain(sentence), icon=":material/link_off:", duration="infinite")
parts = {part: [page(*one) for one in pages] for part, pages in STORY.items()}
chosen = st.navigation(parts, expanded=True)
with contextlib.suppress(PageEnd):
    chosen.run()
story = [one for pages in parts.values() for one in pages]
if (place := story.index(chosen) + 1) < len(story):
    with st.container(key="next"):
        st.page_link(story[place], label=f"Next: {story[place].title}", icon=":material/arrow_forward:")
jobs_sidebar()
if demo:
    st.sidebar.caption("Public demo: listed models only, nothing is saved, lengths are capped.")
write_url()
