"""LightGPT2 (2025): its Tables I to VI, its three figures, its targets, and their controls."""
