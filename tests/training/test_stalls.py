"""Which waits are told of, by a clock that a test turns."""

import pytest

from inf_former_jax.training.stalls import Stalls


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def told(waits):
    """What is told of waits: (kind, seconds) of one update each."""
    lines, clock = [], Clock()
    stalls = Stalls(lines.append, clock)
    for step, (what, seconds) in enumerate(waits):
        with stalls.waiting(what, step):
            clock.now += seconds
    return lines


@pytest.mark.parametrize(
    "waits, lines",
    [
        ([("the reader", 60)], []),  # a cold start
        ([("the reader", 0.01), ("the reader", 4.9)], []),  # nobody minds
        ([("the device", 2), ("the device", 19)], []),  # not ten times as long
        (
            [("the reader", 0.01), ("the reader", 7)],
            ["step 1: waited 7.0 s for the reader, 0.01 s is usual"],
        ),
        # Each kind has its own past.
        (
            [("the reader", 0.01), ("a checkpoint", 30), ("a checkpoint", 2), ("the reader", 30)],
            ["step 3: waited 30.0 s for the reader, 0.01 s is usual"],
        ),
        # The median forgives a slow one, and goes on after a stall.
        (
            [("a checkpoint", s) for s in (40, 1, 1, 12, 1, 11)],
            [
                "step 3: waited 12.0 s for a checkpoint, 1 s is usual",
                "step 5: waited 11.0 s for a checkpoint, 1 s is usual",
            ],
        ),
    ],
)
def test_stalls_are_long_beside_the_waits_before_them(waits, lines):
    assert told(waits) == lines


def test_only_the_last_waits_count():
    """A hundred quick ones after slow ones: slow is a stall again."""
    waits = [("the reader", 8.0)] * 140 + [("the reader", 0.1)] * 99 + [("the reader", 8.0)]
    assert len(told(waits)) == 1
