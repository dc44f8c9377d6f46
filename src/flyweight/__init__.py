"""flyweight: small language models under a budget."""

__version__ = "0.1.0"
