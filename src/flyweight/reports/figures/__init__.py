"""Figures, drawn as SVG and by matplotlib."""
