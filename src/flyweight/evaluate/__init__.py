"""Likelihood, floors, speed, audits and comparisons."""

from flyweight.verbs import make_verb

make_verb(__name__)
