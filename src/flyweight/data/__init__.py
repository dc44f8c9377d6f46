"""Corpora: text in, memory-mapped token windows out."""
