"""Where to write the names of points: no name covers a point, a line or another name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

# The widest common interface fonts need about 0.6 em a character; the reader's own font is not
# known here.
EM = 0.6


@dataclass(frozen=True)
class Box:
    """A rectangle in figure units.

    `weight` is what covering one unit of its area costs, infinite for what must stay free.
    """

    left: float
    bottom: float
    right: float
    top: float
    weight: float = math.inf

    def covered(self, other: Box) -> float:
        """Return the area that both share."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.top, other.top) - max(self.bottom, other.bottom)
        return wide * high if wide > 0 and high > 0 else 0.0

    def holds(self, other: Box) -> bool:
        """Whether `other` lies inside."""
        return (
            self.left <= other.left
            and other.right <= self.right
            and self.bottom <= other.bottom
            and other.top <= self.top
        )


@dataclass(frozen=True)
class Placed:
    """A label's box, and whether it stands far enough from its point to need a line to it."""

    box: Box
    far: bool


def extent(text: str, size: float) -> tuple[float, float]:
    """Return the width and height that a text of one line may need."""
    return EM * size * len(text), 1.15 * size


def short(name: str, letters: int = 28) -> str:
    """Return a name without its middle where it is too long for a figure: ends tell names apart."""
    half = (letters - 1) // 2
    return name if len(name) <= letters else f"{name[:half]}\N{HORIZONTAL ELLIPSIS}{name[-half:]}"


def along(points: Sequence[tuple[float, float]], weight: float, half: float = 1.5) -> list[Box]:
    """Return small boxes along a line through `points`."""
    boxes = []
    for (x0, y0), (x1, y1) in pairwise(points):
        pieces = max(1, round(math.hypot(x1 - x0, y1 - y0) / 6))
        for piece in range(pieces + 1):
            x, y = x0 + (x1 - x0) * piece / pieces, y0 + (y1 - y0) * piece / pieces
            boxes.append(Box(x - half, y - half, x + half, y + half, weight))
    return boxes


def place(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    obstacles: Sequence[Box],
    bounds: Box,
    clearance: float = 6.0,
) -> list[Placed | None]:
    """Return a place for the label of every point, or None for one that fits nowhere.

    Earlier points choose first.

    Every label stays inside `bounds`. A second round lets each choose again, now that all others
    stand.
    """
    places: list[Placed | None] = [None] * len(points)
    for _ in range(2):
        for index, (point, size) in enumerate(zip(points, sizes, strict=True)):
            others = [each.box for place, each in enumerate(places) if each and place != index]
            places[index] = _choose(point, size, [*obstacles, *others], bounds, clearance)
    return places


def _choose(
    point: tuple[float, float],
    size: tuple[float, float],
    obstacles: Sequence[Box],
    bounds: Box,
    clearance: float,
) -> Placed | None:
    best, least = None, math.inf
    for far, penalty, box in _candidates(point, size, clearance):
        if not bounds.holds(box) or penalty >= least:
            continue
        cost = penalty
        for obstacle in obstacles:
            if area := box.covered(obstacle):
                cost += obstacle.weight * area
                if cost >= least:
                    break
        if cost < least:
            best, least = Placed(box, far), cost
    return best


def _candidates(
    point: tuple[float, float], size: tuple[float, float], clearance: float
) -> list[tuple[bool, float, Box]]:
    """Return boxes around a point, the nearest and most natural first, each with its price."""
    (x, y), (width, height) = point, size
    boxes = []
    for ring, reach in enumerate((clearance, 2.2 * clearance, 4 * clearance, 6 * clearance)):
        slant = 0.72 * reach
        spots = (
            (x + reach, y - height / 2),
            (x + slant, y + slant - height / 4),
            (x + slant, y - slant - 3 * height / 4),
            (x - width / 2, y + reach),
            (x - width / 2, y - reach - height),
            (x - reach - width, y - height / 2),
            (x - slant - width, y + slant - height / 4),
            (x - slant - width, y - slant - 3 * height / 4),
        )
        for turn, (left, bottom) in enumerate(spots):
            box = Box(left, bottom, left + width, bottom + height)
            boxes.append((ring > 1, 40.0 * ring + 2.0 * turn, box))
    return boxes
