"""Recipes: stages in the order of their references, each made once."""
