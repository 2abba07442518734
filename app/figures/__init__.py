"""Results → plotly figures, one file a page. No Streamlit here and no mathematics beyond sorting and counting."""
