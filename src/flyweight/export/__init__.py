"""Models for other programs: Hugging Face folders and GGUF files."""

from flyweight.verbs import make_verb

make_verb(__name__)
