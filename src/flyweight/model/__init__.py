"""The decoder and the baselines as torch modules, and a model's folder on disk."""
