"""The errors a user can meet (defined in flyweight.errors)."""

from flyweight.errors import FlyweightError, RequestError

__all__ = ["FlyweightError", "RequestError"]
