"""What a long-term memory may be configured as, and how its contractions share out the signal."""

import pytest

from inf_former_jax.memory.config import LongTermConfig


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


def test_uniform_history_gives_every_segment_the_same_width():
    """p = 1: after k further writes each of the k + 1 segments has 1/(k + 1) of the signal."""
    cfg = LongTermConfig(contraction="power")
    left = 1.0  # width of the first segment after all writes so far
    for k in range(1, 65):
        left *= cfg.tau_of(k)
        assert left == pytest.approx(1 / (k + 1)) == pytest.approx(1 - cfg.tau_of(k))
    assert cfg.tau_of(1000) == cfg.tau_of(64) == 64 / 65
