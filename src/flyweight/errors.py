"""The errors a user can meet, each with the exit status it ends a command with."""

from __future__ import annotations

from flyweight.visible import visible


class FlyweightError(Exception):
    """Something went wrong while doing what was asked: what, where, and what to do.

    Exit status 1.
    """

    status = 1

    def __str__(self) -> str:
        """Return the message; what it quotes from files and models cannot steer a terminal."""
        return visible(super().__str__())


class DivergedError(FlyweightError):
    """A training whose loss or gradient is no longer a finite number."""


class RequestError(FlyweightError):
    """What was asked for cannot be done as written. Exit status 2."""

    status = 2
