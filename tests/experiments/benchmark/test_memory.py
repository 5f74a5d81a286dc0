"""The memory's literal form is ours to rounding; its floor counts what is counted by hand."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmark import __main__ as benchmark
from experiments.benchmark.memory import (
    PARTS,
    PASSES,
    arrays,
    build_operations,
    program,
    require_same,
    tiny,
)
from experiments.benchmark.timing import count_products
from inf_former_jax.memory.fit import ridge as regression
from tests.golden import relative_error

pytestmark = pytest.mark.slow  # together more than ten seconds

B, H, K, E, L, N, M = 2, 2, 4, 10, 16, 6, 12  # of MODEL; T = L
MODEL = tiny()


@pytest.fixture(scope="module")
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def given(x64):
    """Random arrays, with a gate whose bias counts."""
    given = arrays(MODEL, B, jnp.float64)
    given["params"]["gate"]["bias"] = jnp.linspace(-1.0, 1.0, E)
    return given


@pytest.mark.parametrize("part", PARTS)
def test_the_literal_form_is_ours(given, part):
    """What comes out, and its gradients by inputs, coefficients and parameters."""
    (ours, our_gradients), (expected, gradients) = (
        jax.jit(program(form, MODEL, part, True))(given) for form in ("ours", "literal")
    )
    assert set(gradients) == set(PARTS[part])
    kinds = {"read": {"context"}, "write": {"coeffs"}}
    assert set(ours) == set(expected) == kinds.get(part, {"context", "coeffs"})
    found = jax.tree.leaves((ours, our_gradients))
    for a, b in zip(found, jax.tree.leaves((expected, gradients)), strict=True):
        assert a.dtype == b.dtype == np.float64
        assert relative_error(a, b) <= 1e-9 if b.any() else not a.any()
    used = {"read": ("read",), "write": ("gate",), "read + write": ("read", "gate")}[part]
    for name, leaves in gradients["params"].items():
        assert all(leaf.any() == (name in used) for leaf in jax.tree.leaves(leaves))


GATE = 2 * B * L * 3 * E * E
MINIMAL = GATE // 2  # of an L that 4 divides
VALUES = 2 * B * N * E * H * K  # C W_V, and C W_K
OVER_BASIS = 2 * B * H * L * N * K  # E_p[ψ] V, and q · keys
OUT = 2 * B * L * H * K * E
LITERAL_READ = 2 * VALUES + 2 * OVER_BASIS + 2 * (2 * B * H * L * N) + OUT
OUR_READ = 2 * (2 * B * N * E + 2 * B * E * H * K + 2 * B * H * L * K) + VALUES + OVER_BASIS + OUT
SUMS = 2 * (2 * B * H * L * N)  # of the gradients by μ and σ², products with ones
RIDGE, SAMPLES = 2 * B * (M + L) * N * E, 2 * B * M * N * E
DECAY, NEW = 2 * B * N * N * E, 2 * B * L * N * E

#: Forward, and what a gradient adds: two products for each one, but constants have none.
OPERATIONS = {
    ("literal", "read"): (LITERAL_READ, 2 * LITERAL_READ),
    ("ours", "read"): (OUR_READ, 2 * OUR_READ + SUMS),
    ("literal", "write"): (GATE + SAMPLES + RIDGE, 2 * GATE + RIDGE),
    ("ours", "write"): (MINIMAL + DECAY + NEW, 2 * MINIMAL + NEW),
}


@pytest.mark.parametrize("form", ["literal", "ours"])
def test_operations_by_hand(given, form):
    for part in PARTS:
        alone = [OPERATIONS[form, one] for one in part.split(" + ")]
        forward, backward = (sum(numbers) for numbers in zip(*alone, strict=True))
        for both, expected in ((False, forward), (True, forward + backward)):
            jaxpr = jax.make_jaxpr(program(form, MODEL, part, both))(given).jaxpr
            assert sum(count_products(jaxpr, []).values()) == expected, (part, both)


@pytest.mark.parametrize(
    ("found", "expected", "error"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, -4000.0], [0.0, -4000.0], 2.5e-4),
        ([0.0, 5e-4], [0.0, 0.0], 5e-4),
        ([1.0, -1.9], [1.0, -2.0], None),
        ([1.0, np.nan], [1.0, 2.0], None),
    ],
)
def test_results_are_the_same_or_it_is_an_error(found, expected, error):
    """The second of two arrays; a NaN is not the same as anything."""
    found, expected = (np.ones(1), np.array(found)), (np.ones(1), np.array(expected))
    if error is None:
        with pytest.raises(ValueError, match=r"^memory: x: error: found .*, accepted: at most"):
            require_same("x", found, expected)
    else:
        assert require_same("x", found, expected) == pytest.approx(error)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """What the command writes: name → what was found."""
    out = tmp_path_factory.mktemp("benchmark")
    with jax.enable_x64(False):
        benchmark.main(["--quick", "--measure", "memory", "operators", "--out", str(out)])
    files = {name: out / f"{name}.json" for name in ("memory", "operators")}
    return {name: json.loads(file.read_text())["found"][name] for name, file in files.items()}


@pytest.mark.slow
def test_quick_memory(quick):
    """Every part and pass, whose floors are its operations at the rate that was measured."""
    found = quick["memory"]
    assert found["sizes"] == {"B": B, "T": L, "N": N, "E": E, "H": H}
    assert [(row["part"], row["pass"]) for row in found["rows"]] == [
        (part, name) for part in PARTS for name in PASSES
    ]
    for row in found["rows"]:
        assert 0 <= row["error"] < 1e-4 and row["ratio"] > 0
        for form in ("literal", "ours"):
            one = row[form]
            assert one["floor"] == pytest.approx(one["operations"] / found["gflops"] / 1e9)
            assert one["share"] == pytest.approx(one["floor"] / one["seconds"])
            assert one["temporaries_mb"] >= 0 and one["program_bytes"] > 0
            assert one["bytes_floor"] == pytest.approx(one["bytes"] / found["gb_per_second"] / 1e9)
    # The read's inputs and its result in float32: parameters, queries, coefficients; contexts.
    numbers = E * H * K * 3 + 2 * N + B * H * L * K + B * N * E + B * L * E
    assert found["rows"][0]["ours"]["bytes"] == pytest.approx(4 * numbers, rel=0.01)
    both = found["rows"][-1]
    expected = sum(sum(OPERATIONS["ours", part]) for part in ("read", "write"))
    assert both["ours"]["operations"] == expected


@pytest.mark.slow
def test_quick_operators(quick):
    row = quick["operators"]["tiny"]
    assert row["contractions"] == 1
    assert min(row[name] for name in ("build", "build_processor", "forward")) > 0
    assert row["mb"] == pytest.approx(4e-6 * (2 * L * N + N * N + M * N))
    assert row["share"] == pytest.approx(row["floor"] / row["build"]) and row["floor"] > 0
    assert row["forward, program_bytes"] < row["forward + backward, program_bytes"]


def test_operations_of_a_build_are_those_of_its_arrays():
    """F Fᵀ and Fᵀ (·)⁻¹ of every regression, of what pins it to zero F Fᵀ; Ψᵀ G_past."""
    cfg = MODEL.long_term
    zeros = [len(regression.first_fit_padding(L)), len(regression.write_padding(M, L))]
    # Even L: half of 2 L points, evenly from -½ to 1½, are outside of [0, 1].
    assert zeros[0] == L
    grams = sum(2 * N * N * count for count in (L, M + L, *zeros))
    products = 2 * N * N * (L + M + L) + 2 * N * M * N
    found = build_operations(cfg, L)
    assert found == grams + products + 2 * (N**3 // 3 + 2 * N**3)
    power = dataclasses.replace(cfg, contraction="power", horizon=3)
    more = build_operations(power, L) - found
    assert more == 2 * (4 * N * N * (M + L) + 2 * N * N * M + N**3 // 3 + 2 * N**3)
