"""Rotation."""

import streamlit as st

st.title("Rotation")
