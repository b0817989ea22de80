"""One driver after another as a single dispatcher: workers stay warm from the search to its confirmation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tlsearch.records import EpochResult, Point
from tlsearch.search.driver import Driver


class PhaseSequence:
    """A `Dispatcher` of several drivers, each of which begins when the one before it is over."""

    def __init__(self, drivers: Iterator[Driver]) -> None:
        """``drivers`` is asked for the next one only when the one before has recorded all that it will."""
        self._drivers = drivers
        self._driver = next(drivers, None)

    @property
    def over(self) -> bool:
        """Whether no driver is left."""
        return self._driver is None

    @property
    def deadline(self) -> float:
        """Of the driver whose turn it is."""
        return self._now.deadline

    @property
    def prune(self) -> bool:
        """Of the driver whose turn it is."""
        return self._now.prune

    def next_turn(self) -> list[Point] | None:
        """Points for a worker; empty while there are none yet, None at the end or when asked to stop."""
        while self._driver is not None:
            points = self._driver.next_turn()
            if points is not None or self._driver.stopping():
                return points
            if self._driver.open:  # its time is up, and workers are about to end
                return []
            self.leave()
        return None

    def put_back(self, points: Sequence[Point]) -> None:
        """Take points back that were handed out and not begun; they are the next turn."""
        self._now.put_back(points)

    def record(self, results: Sequence[EpochResult]) -> None:
        """Take results as they come; those of an earlier driver's trials are late."""
        if self._driver is not None:
            self._driver.record(results)

    def ended(self, points: Sequence[Point], error: str | None) -> None:
        """Take note that a worker is done with its points, or died of ``error``."""
        if self._driver is not None:
            self._driver.ended(points, error)

    def must_stop(self) -> bool:
        """Whether all workers are to be stopped now."""
        return self._driver is not None and self._driver.must_stop()

    def leave(self) -> None:
        """End what is open of the driver whose turn it is, and go over to the next one."""
        self.close()
        self._driver = next(self._drivers, None)

    def close(self) -> None:
        """End what is open of the driver whose turn it is, when no worker is left."""
        if self._driver is not None:
            self._driver.close()

    @property
    def _now(self) -> Driver:
        if self._driver is None:
            raise RuntimeError("there is no driver left")
        return self._driver
