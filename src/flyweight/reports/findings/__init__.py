"""Sentences about what was measured."""
