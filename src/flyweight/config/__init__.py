"""Configs: what a user can write, checked."""
