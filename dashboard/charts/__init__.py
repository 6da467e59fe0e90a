"""Rows -> data frames, beside the constant Vega-Lite specifications that draw them: one module for each page. Pure.

A specification is never built per refresh: only the frame changes, which is what makes a refresh cheap.
"""
