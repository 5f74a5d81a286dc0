"""Waits that are far longer than the ones before them: of the reader, the device, a save."""

import collections
import contextlib
import statistics
import time
from collections.abc import Callable, Iterator

#: A wait is a stall if it is this many times as long as the median of its kind before it, …
_TIMES = 10
#: … and longer than so many seconds.
_SECONDS = 5.0
#: How many of the last waits of a kind are looked at.
_KEPT = 100


class Stalls:
    """Times what a run waits for, and tells of a stall when it is over.

    The first wait of a kind is never a stall: it may hold a compilation or a cold start.

    Args:
        tell: takes one line.
        clock: seconds.
    """

    def __init__(self, tell: Callable[[str], None], clock: Callable[[], float] = time.perf_counter):
        self._tell, self._clock = tell, clock
        self._waits = collections.defaultdict(lambda: collections.deque(maxlen=_KEPT))

    @contextlib.contextmanager
    def waiting(self, what: str, step: int) -> Iterator[None]:
        """Time a block that waits for `what`: "the reader", "the device", "a checkpoint".

        Args:
            step: after how many updates.
        """
        begun = self._clock()
        yield
        seconds = self._clock() - begun
        waits = self._waits[what]
        if waits and seconds > max(_SECONDS, _TIMES * (usual := statistics.median(waits))):
            self._tell(f"step {step}: waited {seconds:.1f} s for {what}, {usual:.2g} s is usual")
        waits.append(seconds)
