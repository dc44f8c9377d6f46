"""The errors that a user can meet, each with the exit status of a command that it ends."""

from __future__ import annotations

from flyweight.visible import visible


class FlyweightError(Exception):
    """Something went wrong during the work; exit status 1.

    The message says what, where, and what to do.
    """

    status = 1

    def __str__(self) -> str:
        """Return the message as visible text: nothing that it quotes can steer a terminal."""
        return visible(super().__str__())


class DivergedError(FlyweightError):
    """The loss or the gradient of a training is no longer a finite number."""


class RequestError(FlyweightError):
    """The request cannot be done as written; exit status 2."""

    status = 2


class NothingFits(RequestError):
    """No model fits the budget: work is refused with status 2, a plan answers with status 1."""
