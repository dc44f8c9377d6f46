"""Tables, plots and pages, drawn from artifacts alone."""

from flyweight.verbs import make_verb

make_verb(__name__)
