"""Importance."""

import streamlit as st

st.title("Importance")
