"""A grid of models under one protocol: its cells, their runs, and what they show."""
