"""What a long-term memory may be configured as, and how its contractions share out the signal."""

import pytest

from inf_former_jax.memory.config import LongTermConfig
from inf_former_jax.memory.write_operators import operator_mib
from inf_former_jax.models.config import ModelConfig


@pytest.mark.parametrize(
    "name, change",
    [
        ("tau", {"tau": 1.0}),
        ("tau", {"tau": 0.0}),
        ("ridge", {"ridge": -1.0}),
        ("num_basis", {"num_basis": 7}),
        ("num_samples", {"num_samples": 0}),
        ("bins", {"bins": 0}),
        ("min_var", {"min_var": 0.0}),
        ("prior_scale", {"prior_scale": -0.1}),
        ("max_operator_mib", {"max_operator_mib": 0}),
        ("power", {"contraction": "power", "power": 0.0}),
        ("power", {"contraction": "power", "power": -1.0}),
        ("power", {"contraction": "power", "power": 1e-17}),
        ("power", {"contraction": "power", "power": 1e4}),
        ("horizon", {"contraction": "power", "horizon": 0}),
        ("tau", {"contraction": "power", "tau": 0.9}),
        ("tau", {"contraction": "power", "tau": 0.9, "power": 2.0}),
        ("power", {"power": 2.0}),
        ("horizon", {"horizon": 32}),
        ("ridge", {"ridge": float("inf")}),
        ("ridge", {"ridge": float("nan")}),
        ("widths", {"widths": (0.01, float("inf"))}),
        ("widths", {"widths": (0.01, 0.0)}),
        ("widths", {"widths": ()}),
        ("prior_mean", {"prior_mean": float("nan")}),
        ("num_basis", {"num_basis": 10**12}),
        ("bins", {"bins": 10**12}),
        ("min_var", {"min_var": 1e-45}),
    ],
)
def test_impossible_configurations_are_refused(name, change):
    """One line: option, found, accepted."""
    with pytest.raises(ValueError, match=rf"^{name}: found .*accepted: ") as caught:
        LongTermConfig(**change)
    assert "\n" not in str(caught.value)


CELLS = {"functions": "rectangular", "fit": "intervals"}
CONTENT = {"density": "gibbs"}


@pytest.mark.parametrize(
    "name, change",
    [
        ("temperature", CONTENT | {"temperature": 0.0}),
        ("temperature", CONTENT | {"temperature": -1.0}),
        ("temperature", {"content_heads": 1, "temperature": 0.0}),
        ("cells", CONTENT | {"cells": 511}),
        ("cells", CONTENT | {"cells": -1}),
        ("cells", CONTENT | CELLS | {"cells": 512}),
        ("cells", CONTENT | CELLS | {"cells": 1024}),
        ("content_heads", {"content_heads": -1}),
        ("content_heads", CONTENT | {"content_heads": 1}),
        # What would be ignored.
        ("widths", {"functions": "rectangular", "widths": (0.2,)}),
        ("padding", {"functions": "rectangular", "padding": False}),
        ("ridge", CELLS | {"ridge": 0.5}),
        ("num_samples", CELLS | {"num_samples": 8}),
        ("num_samples", {"fit": "intervals", "num_samples": 8}),
        ("locations", {"locations": "draw"}),
        ("horizon", CELLS | {"contraction": "power", "horizon": 8}),
        ("max_operator_mib", CELLS | {"max_operator_mib": 8}),
        ("tau", CELLS | {"contraction": "power", "tau": 0.5}),
        ("cells", {"cells": 512}),
        ("temperature", {"temperature": 2.0}),
        ("learn_temperature", {"learn_temperature": True}),
        ("age_bias", {"age_bias": "linear"}),
        ("turn_queries", {"turn_queries": True}),
        ("learn_worth", {"learn_worth": True}),
        ("unit_cells", {"unit_cells": True}),
        ("projections", {"projections": "attention"}),
        ("joined", {"joined": True}),
        ("prior_scale", CONTENT | {"prior_scale": 0.1}),
        ("prior_mean", CONTENT | {"prior_mean": 0.5}),
        # What has no meaning.
        ("joined", {"content_heads": 1, "joined": True}),
        ("projections", {"content_heads": 1, "projections": "attention"}),
        ("projections", CONTENT | {"projections": "attention", "unit_cells": True}),
        ("read", CONTENT | {"read": "kernel"}),
        ("read", {"content_heads": 1, "read": "kernel"}),
        ("read", {"functions": "rectangular", "read": "kernel"}),
        ("power", CELLS | {"contraction": "power", "power": 1e-17}),
        ("contraction", {"contraction": "doubling"}),
        ("contraction", CELLS | {"contraction": "doubling", "sticky": True}),
        ("num_basis", CELLS | {"contraction": "doubling", "num_basis": 24}),
        ("tau", CELLS | {"contraction": "doubling", "tau": 0.5}),
        ("power", CELLS | {"contraction": "doubling", "power": 2.0}),
    ],
)
def test_pairs_without_meaning_are_refused(name, change):
    """One line that begins with the option."""
    with pytest.raises(ValueError, match=rf"^{name}: found .*accepted: ") as caught:
        LongTermConfig(**change)
    assert "\n" not in str(caught.value)


def test_heads_that_read_by_content_are_fewer_than_all():
    with pytest.raises(ValueError, match=r"^long_term.content_heads: found 6, accepted: fewer "):
        ModelConfig(long_term=LongTermConfig(content_heads=6))
    ModelConfig(long_term=LongTermConfig(content_heads=5))


def test_cells_cannot_join_an_attention_that_does_not_say_what_it_sums_to():
    joined = LongTermConfig(density="gibbs", joined=True)
    with pytest.raises(ValueError, match=r"^long_term.joined: found True beside fused_attention"):
        ModelConfig(long_term=joined, fused_attention=True)


def test_no_number_of_writes_is_too_large_for_cells():
    """There is no table: τ_k goes on beyond `horizon`, and the room for operators is one fit's."""
    cfg = LongTermConfig(**CELLS, contraction="power")
    assert cfg.tau_of(10**6) == 10**6 / (10**6 + 1)
    assert operator_mib(cfg, 512) == 512 * 512 * 4 / 2**20


def test_uniform_history_gives_every_segment_the_same_width():
    """p = 1: after k further writes each of the k + 1 segments has 1/(k + 1) of the signal."""
    cfg = LongTermConfig(contraction="power")
    left = 1.0  # width of the first segment after all writes so far
    for k in range(1, 65):
        left *= cfg.tau_of(k)
        assert left == pytest.approx(1 / (k + 1)) == pytest.approx(1 - cfg.tau_of(k))
    assert cfg.tau_of(1000) == cfg.tau_of(64) == 64 / 65
