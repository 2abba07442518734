"""Entry of the app: navigation, and the settings in the URL. Run from the root: ``make app``."""

import contextlib

import streamlit as st

from app.state import PageEnd, settings, write_url

st.set_page_config(page_title="RCPU Explorer", page_icon="assets/icon.svg", layout="wide")
st.logo("assets/logo.svg", size="large", icon_image="assets/icon.svg")

settings()
page = st.navigation(
    [
        st.Page("../pages/model.py", title="Model", icon=":material/deployed_code:", url_path="model", default=True),
        st.Page("../pages/prune.py", title="Prune", icon=":material/content_cut:", url_path="prune"),
        st.Page("../pages/compare.py", title="Compare", icon=":material/compare_arrows:", url_path="compare"),
    ]
)
with contextlib.suppress(PageEnd):
    page.run()
write_url()
