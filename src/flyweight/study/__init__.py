"""A grid of models under one protocol: its cells, their runs, and what they show."""

from flyweight.verbs import make_verb

make_verb(__name__)
