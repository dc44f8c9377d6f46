"""Likelihood, floors, speed, audits and comparisons."""
