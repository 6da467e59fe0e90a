"""Where `streamlit run` starts."""
