"""What a call is timed by: the device's own events where there is a GPU, the wall clock where there is none.

``edgeattn.harness.latency`` reads a clock before and after each call. :class:`EventClock` moves by what the events
around a call say that the device spent, so that the same rounds, intervals and controls hold for time on the device.
It stands still between calls: a limit of seconds given to the harness is one of device time.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Protocol

from edgeattn.backends._cuda import Cuda, Stopwatch

Call = Callable[[], object]


class Clock(Protocol):
    """Times what is queued; reads in nanoseconds."""

    name: str

    def timed(self, title: str, queue: Call, stream: Any) -> Call:
        """A call that queues once, waits until it is done, and is timed."""

    def wall_ms(self, title: str) -> float | None:
        """The median call by the wall clock, waiting included."""

    def __call__(self) -> int: ...


class HostClock:
    """The wall clock: a call is done when it returns."""

    name = "perf_counter"

    def timed(self, title: str, queue: Call, stream: Any) -> Call:
        """The call itself."""
        return queue

    def wall_ms(self, title: str) -> float | None:
        """It is what was measured anyway."""
        return None

    def __call__(self) -> int:
        return time.perf_counter_ns()


class EventClock:
    """CUDA events around each call, on the stream that it queues on; the wall clock is read beside them."""

    name = "CUDA events"

    def __init__(self, cuda: Cuda, read: Callable[[], int] = time.perf_counter_ns) -> None:
        self._cuda, self._read, self._ns = cuda, read, 0
        self._wall: dict[str, list[int]] = defaultdict(list)

    def timed(self, title: str, queue: Call, stream: Any) -> Call:
        """Queued between two events; the second is waited for."""
        watch, wall = Stopwatch(self._cuda, stream), self._wall[title]

        def call() -> None:
            began = self._read()
            watch.start()
            queue()
            self._ns += round(watch.stop() * 1e6)
            wall.append(self._read() - began)

        return call

    def wall_ms(self, title: str) -> float | None:
        """The median over all calls, those of the warm-up too."""
        return statistics.median(self._wall[title]) / 1e6 if self._wall[title] else None

    def __call__(self) -> int:
        return self._ns
