"""The errors a user can meet, each with the exit status it ends a command with."""

from __future__ import annotations


class FlyweightError(Exception):
    """Something went wrong while doing what was asked: what, where, and what to do. Exit status 1."""

    status = 1


class DivergedError(FlyweightError):
    """A training whose loss or gradient is no longer a finite number."""


class RequestError(FlyweightError):
    """What was asked for cannot be done as written. Exit status 2."""

    status = 2
