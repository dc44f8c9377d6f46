"""The one training loop, its objectives and optimizers."""

from flyweight.verbs import make_verb

make_verb(__name__)
