"""What a run will need, before it runs."""

from flyweight.verbs import make_verb

make_verb(__name__)
