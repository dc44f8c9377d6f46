"""A model before it is built: its linear layers, its visits, its parameters and FLOPs; no torch."""
