"""Models in other programs' formats. Importing this costs nothing; each writer imports its own library."""

from flyweight.verbs import make_verb

make_verb(__name__)
