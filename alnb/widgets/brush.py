"""The pen as a state machine: down, move, up. Pure; used where the kernel draws the stroke."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from alnb.records import IGNORE, Stroke

Point = tuple[float, float]
MOST_POINTS = 20_000


@dataclass(frozen=True, slots=True)
class Brush:
    """A pen with its settings and the points of the stroke that is open, if any.

    A second `down` without an `up` (a lost message) starts a new stroke; it never joins two
    strokes by a line.
    """

    label: int = 1
    radius: float = 2.5
    erasing: bool = False
    points: tuple[Point, ...] = field(default=())

    @property
    def is_down(self) -> bool:
        """Whether a stroke is open."""
        return bool(self.points)

    def down(self, point: Point) -> Brush:
        """Open a stroke at `point` (row, col)."""
        return replace(self, points=(point,))

    def move(self, point: Point) -> Brush:
        """Extend the open stroke; nothing happens without one, or beyond `MOST_POINTS`."""
        if not self.points or point == self.points[-1] or len(self.points) >= MOST_POINTS:
            return self
        return replace(self, points=(*self.points, point))

    def up(self) -> tuple[Brush, Stroke | None]:
        """Close the stroke: the idle brush, and the stroke if there was one."""
        return replace(self, points=()), self.stroke()

    def cancel(self) -> Brush:
        """Forget the open stroke."""
        return replace(self, points=())

    def stroke(self, since: int = 0) -> Stroke | None:
        """The open stroke so far, from point number `since` on; None if there is none."""
        if not self.points[since:]:
            return None
        label = IGNORE if self.erasing else self.label
        return Stroke(self.points[since:], label, self.radius)
