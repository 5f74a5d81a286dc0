"""What a published model is given: a window and cells, which of them stay, and what it refuses."""

import dataclasses

import pytest

from experiments.language_modeling.given import GivenConfig, with_memory
from inf_former_jax.models import presets

MODEL = presets.smollm2(num_layers=2, segment_len=4, mem_len=0, sinks=0)
CELLS = GivenConfig(run="smollm2", window=8, cells=16, cell_layers=(1,), cells_by_age=True)


@pytest.mark.parametrize(
    ("changes", "memory"),
    [
        ({}, ("doubling", False)),
        ({"cell_tau": 0.25}, ("fixed", False)),
        ({"cell_tau": 0.75, "cells_kept": "newest"}, ("kept", False)),
        ({"cell_tau": 0.75, "cells_kept": "attended"}, ("kept", True)),
    ],
)
def test_cells_by_what_stays(changes, memory):
    cfg = dataclasses.replace(CELLS, **changes)
    made = with_memory(MODEL, cfg)
    long_term = made.long_term
    assert long_term is not None
    assert (long_term.contraction, long_term.sticky) == memory
    assert long_term.num_basis == 16 and long_term.projections == "attention" and long_term.joined
    if cfg.cell_tau:
        assert long_term.tau == cfg.cell_tau
    assert (made.mem_len, made.long_term_layers, made.cells_by_age) == (8, (1,), True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cells_kept": "newest"}, "cells_kept: found newest, and no cell_tau, accepted: one of 1"),
        (
            {"cells_kept": "newest", "cell_tau": 0.7},
            "cell_tau: found 0.7 with cells 16 and cells that are kept, accepted: 1 - 1/n there",
        ),
        ({"cells_kept": "attended", "cell_tau": 0.5, "cells": 17}, "cell_tau: found 0.5"),
        ({"cells": 0}, "cell_layers: found \\(1,\\) without cells"),
        ({"cells": 17}, "cells: found 17, accepted: a power of two"),
        ({"window": 6}, "window: found 6, accepted: a multiple of segments of 4"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        with_memory(MODEL, dataclasses.replace(CELLS, **changes))
