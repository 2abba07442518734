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


def page(name: str, title: str, icon: str, **options) -> st.Page:
    """One file of pages/."""
    return st.Page(f"../pages/{name}.py", title=title, icon=f":material/{icon}:", url_path=name, **options)


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
chosen = st.navigation(
    {
        "Prepare": [
            page("model", "Model", "deployed_code", default=True),
            page("calibration", "Calibration", "dataset"),
        ],
        "Understand": [
            page("importance", "Importance", "bar_chart"),
            page("rotation", "Spectrum and rotation", "360"),
        ],
        "Prune": [
            page("prune", "Prune", "content_cut"),
            page("compare", "Compare", "compare_arrows"),
        ],
        "Teach": [page("learn", "Learn", "school")],
    }
)
with contextlib.suppress(PageEnd):
    chosen.run()
jobs_sidebar()
if demo:
    st.sidebar.caption("Public demo: listed models only, nothing is saved, lengths are capped.")
write_url()
