"""Every pair of a basis, a fit and a density that a memory can be made of, as small as it gets.

`PAIRS` maps a name to the changes of a model with 2 heads: those of its long-term memory under
"long_term", and those of the model around it. Files of tests put each of them through what any
memory has to do.
"""

from inf_former_jax.memory.long_term import LongTermConfig

CELLS = {"functions": "rectangular", "fit": "intervals"}
STICKY = {"sticky": True, "num_samples": 6}
KEPT = {"contraction": "kept", "tau": 0.5}
POWER = {"contraction": "power"}
CONTENT = {"density": "gibbs"}
ENDS = {"density": "sparsemax"}
WAVES = {"functions": "fourier", "padding": False, "num_basis": 5}
LEARNED = {"turn_queries": True, "learn_temperature": True, "temperature": 0.5}
#: What a GPT-2 has, and other models of these tests have not.
GPT2 = {
    "norm": "pre",
    "final_norm": True,
    "position": "learned",
    "activation": "gelu",
    "attention_bias": True,
    "tied": True,
    "scale_embedding": False,
    "inner_dropout": False,
}
#: What a Llama has: half as many heads of keys and values as of queries.
LLAMA = {
    "norm": "pre",
    "norm_kind": "rms",
    "norm_epsilon": 1e-6,
    "final_norm": True,
    "position": "rotary",
    "rope_theta": 100.0,
    "activation": "swiglu",
    "head_dim": 4,
    "num_kv_heads": 1,
    "scale_embedding": False,
    "inner_dropout": False,
}
TRAINING_FREE = {**CELLS, **CONTENT, "projections": "attention", "gate": False}


def memory(**changes) -> LongTermConfig:
    """A memory of 4 functions or cells."""
    gaussian = changes.get("functions", "gaussian") == "gaussian"
    tiny = {"num_basis": 4} | ({"widths": (0.1, 0.3)} if gaussian else {})
    if changes.get("contraction") != "kept":  # which reads old cells, not samples of them
        sampled = changes.get("fit", "points") == "points" or changes.get("sticky", False)
        tiny |= {"bins": 5} | ({"num_samples": 6} if sampled else {})
    return LongTermConfig(**tiny | changes)


#: name → changes of the memory, changes of the model around it
_PAIRS = {
    "gaussian, intervals": ({"fit": "intervals"}, {"norm": "pre"}),
    "gaussian, intervals, sticky": (
        {"fit": "intervals", "horizon": 2, **STICKY, **POWER},
        {"mem_len": 0},
    ),
    "cells, points": ({"functions": "rectangular", **STICKY}, {}),
    "cells": ({**CELLS, **POWER, "power": 1.5}, {"norm": "pre"}),
    "cells, drawn": ({**CELLS, **STICKY, "locations": "draw"}, {"mem_len": 0}),
    "cells, in pairs": ({**CELLS, "contraction": "doubling"}, {"mem_len": 0}),
    "sparsemax, sticky": ({**ENDS, **STICKY}, {"mem_len": 0}),
    "sparsemax, cells": ({**ENDS, **CELLS, **POWER}, {}),
    "waves, sticky": ({**WAVES, **STICKY}, {}),
    "waves, intervals, sparsemax": (
        {**WAVES, **ENDS, **POWER, "fit": "intervals", "horizon": 2},
        {"mem_len": 0},
    ),
    "content, gaussian, points": ({**CONTENT, "cells": 6, "age_bias": "linear"}, {}),
    "content, gaussian, intervals": (
        {**CONTENT, **STICKY, **LEARNED, "fit": "intervals", "age_bias": "cells"},
        {"mem_len": 0, "norm": "pre"},
    ),
    "content, cells, points": ({**CONTENT, "functions": "rectangular"}, {"mem_len": 0}),
    "content, cells": (
        {**CELLS, **CONTENT, **POWER, **LEARNED, "age_bias": "cells", "unit_cells": True},
        {"mem_len": 0},
    ),
    "training-free": (
        {**TRAINING_FREE, **STICKY, **POWER, "learn_temperature": True},
        GPT2,
    ),
    "joined": ({**CELLS, **CONTENT, **LEARNED, "joined": True}, {"query_chunk": 3}),
    "joined, no window": (
        {**CONTENT, **STICKY, "joined": True, "cells": 5, "age_bias": "linear"},
        {"mem_len": 0},
    ),
    "joined, training-free": (
        {**TRAINING_FREE, "contraction": "doubling", "joined": True},
        GPT2,
    ),
    "llama": ({**CELLS, **CONTENT, **LEARNED, **POWER}, LLAMA),
    "llama, joined, training-free": (
        {**TRAINING_FREE, "joined": True},
        {**LLAMA, "attention_bias": True, "tied": True, "query_chunk": 3, "cells_by_age": True},
    ),
    "llama, grafted": (
        {**TRAINING_FREE, "joined": True, "turn_queries": True, "unit_writes": True, "gate": True},
        {**LLAMA, "num_layers": 2, "long_term_layers": (1,), "sinks": 2, "cell_distance": 3},
    ),
    "llama, kept": (
        {**TRAINING_FREE, **KEPT, "sticky": True, "joined": True},
        {**LLAMA, "cells_by_age": True, "mem_len": 0},
    ),
    "llama, kept by worth": (
        {**TRAINING_FREE, **KEPT, "sticky": True, "joined": True, "learn_worth": True},
        {**LLAMA, "cells_by_age": True, "mem_len": 0},
    ),
    "content, kept by worth": (
        {**CELLS, **CONTENT, **KEPT, "sticky": True, "learn_worth": True},
        {"mem_len": 0},
    ),
    "content, queue": ({**CELLS, **CONTENT, **KEPT, "age_bias": "linear"}, {"mem_len": 0}),
    "mixed, gaussian": (
        {**STICKY, "content_heads": 1, "cells": 5, "age_bias": "cells"},
        {"mem_len": 0},
    ),
    "mixed, cells": (
        {**CELLS, **POWER, **LEARNED, "content_heads": 1, "unit_cells": True},
        {"norm": "pre"},
    ),
}
PAIRS = {name: {"long_term": memory(**of), **model} for name, (of, model) in _PAIRS.items()}
