"""Programs are timed in turns; their work, their floors and this machine's rates by hand."""

import contextlib

import jax
import jax.numpy as jnp
import pytest
from matplotlib.figure import Figure

from experiments.benchmark import timing
from experiments.benchmark.timing import (
    BenchmarkConfig,
    Case,
    compile_case,
    count_products,
    probes,
    race,
    ratio,
    row,
)
from experiments.run import plots

ONE = 2 * 2 * 3 * 3  # multiplications and additions of [2, 3] [3, 3]


def count(function, *arguments, taken=(), within=()):
    return count_products(jax.make_jaxpr(function)(*arguments).jaxpr, list(taken), within)


def test_products_of_loops_and_choices():
    """5 × [2,3] [3,3] in a loop; of a choice the smaller, one of [2,3] [3,3] and not three."""
    a, w = jnp.ones((2, 3)), jnp.ones((3, 3))

    def run(a, w):
        a, _ = jax.lax.scan(lambda a, _: (jax.jit(jnp.matmul)(a, w), None), a, length=5)
        more = jax.lax.cond(
            a.sum() > 0,
            lambda a: a @ w,
            lambda a: (jnp.stack([a] * 3) @ jnp.stack([w] * 3))[0],
            a,
        )
        return a + more

    assert sum(count(run, a, w).values()) == 6 * ONE


def test_products_of_a_choice_by_how_often_it_is_taken():
    """Of 4 turns 3 take [2,3] [3,3] and one takes two of them; what nobody uses is not counted."""
    w, four = jnp.ones((3, 3)), jnp.zeros(4, int)

    def run(kinds):
        def body(a, kind):
            unused = (a @ w) @ w
            branches = (lambda a: a, lambda a: a @ w, lambda a: (a @ w) @ w)
            return jax.lax.switch(kind, branches, a), unused.sum()

        return jax.lax.scan(body, jnp.ones((2, 3)), kinds)[0]

    def products(function, taken, within=()):
        return sum(count(function, four, taken=taken, within=within).values()) / ONE

    assert products(run, [(0, 3, 1)]) == 5
    assert products(run, [(2, 1, 1)]) == 3
    # Among another number of branches, or not known: the cheapest that has products, each time.
    assert products(run, [(3, 1)]) == products(run, []) == 4
    # One after the other, each with its own.
    assert products(lambda kinds: run(kinds) + run(kinds), [(0, 3, 1), (2, 1, 1)]) == 8

    def chosen(kinds):
        return jax.lax.cond(kinds.sum() > 0, run, lambda kinds: jnp.ones((2, 3)), kinds)

    # Inside of a choice: the cheapest, 4 times; or by its own shares, in half of the turns.
    assert products(chosen, [(1, 1)]) == 2
    assert products(chosen, [(1, 1)], (0, 3, 1)) == 2.5


def test_products_by_kind():
    """An accelerator has its own rate for each."""
    highest, a = jax.lax.Precision.HIGHEST, jnp.ones((2, 3))
    few = jnp.ones((3, 1), jnp.bfloat16)

    def run(a, few):
        return jnp.matmul(a, a.T, precision=highest), a @ a.T, few.T @ few

    assert count(run, a, few) == {"float32": 24, "float32 default": 24, "bfloat16": 6}


def test_a_compiled_case_knows_its_program():
    """[2, 3] [3, 3]: its product, its arguments and its result in float32, and that it runs."""
    case = compile_case(jax.jit(jnp.matmul), jnp.ones((2, 3)), jnp.ones((3, 3)))
    assert case.operations == {"float32 default": ONE}
    assert case.moved == pytest.approx(4 * (6 + 9 + 6), abs=32)  # and pointers
    assert case.run().tolist() == [[3.0] * 3] * 2
    assert case.known["program_bytes"] > 100 and min(case.known.values()) >= 0
    assert case.known["devices"] == 1


def test_compiled_thrice_it_tells_the_medians(monkeypatch):
    """Of 1, 5 and 3 s to trace, and 2, 2 and 9 s to compile; nothing is known from before."""
    spent = [0, 1, 3, 3, 8, 10, 10, 13, 22]
    monkeypatch.setattr(timing.time, "perf_counter", iter(spent).__next__)
    traces = []
    case = compile_case(jax.jit(lambda a: traces.append(0) or a + 1), jnp.ones(2), times=3)
    assert (case.known["trace"], case.known["compile"], len(traces)) == (3, 2, 3)


def case_of(operations, moved, executions=1):
    return Case(lambda: None, lambda: None, operations, moved, {"trace": 7.0}, executions)


def test_floors_by_hand():
    rates = {"float32": 100.0, "bfloat16": 400.0, "bytes": 10.0}
    case = case_of({"float32": 100, "bfloat16": 400}, 10, executions=2)
    assert row(case, [8.0, 6.0, 9.0], rates) == {
        "seconds": 4.0,
        "least": 3.0,
        "trace": 7.0,
        "operations": 500,
        "floor": 2.0,
        "share": 0.5,
        "bytes": 10,
        "bytes_floor": 1.0,
        "bytes_share": 0.25,
    }


def test_ratio_is_the_median_of_pairs():
    """Not the quotient of medians, which is 4 here."""
    assert ratio([4.0, 6.0, 2.0], [1.0, 2.0, 1.0]) == 3.0


def test_probes_of_a_machine():
    """[8, 8] products and vectors of 8 · 64 numbers, two read and one written."""
    found = probes(8, ["float32", "bfloat16"])
    by_turns = [float(found["bytes"].run()[0]) for _ in range(3)]
    assert by_turns == [3.0, 5.0, 7.0]
    assert found["bytes"].moved == pytest.approx(3 * 4 * 8 * 64, rel=0.01)
    for kind in ("float32", "bfloat16"):
        assert found[kind].operations == {kind if kind == "float32" else "bfloat16": 2 * 8**3}
        assert jnp.isfinite(found[kind].run()).all()


def test_probes_of_devices():
    """Each has a product of its own and its share of the sum, all at once."""
    found = probes(8, ["float32"], devices=2)
    assert found["float32"].operations == {"float32": 2 * 2 * 8**3}
    assert found["bytes"].moved == pytest.approx(3 * 4 * 8 * 64, rel=0.01)
    assert found["float32"].known["devices"] == found["bytes"].known["devices"] == 2


def test_cases_take_turns():
    """After one turn to warm up; rates are those of the best runs."""
    said = []
    cases = {
        label: case_of({"float32": 1}, 1)._replace(run=lambda label=label: said.append(label))
        for label in ("a", "b")
    }
    rows, seconds, rates = race(cases, BenchmarkConfig(quick=True))
    assert said == ["a", "b"] * 4 and [len(seconds[label]) for label in cases] == [3, 3]
    assert rates["float32"] == 2 * 64**3 / min(seconds[1, "float32"])
    assert set(rates) == {"float32", "bytes"} and rows["a"]["floor"] == 1 / rates["float32"]
    rows, seconds, _ = race({}, BenchmarkConfig(quick=True, repeats=1))
    assert rows == {} and len(seconds[1, "bytes"]) == 3


def test_bars_are_as_long_as_the_medians(tmp_path, monkeypatch):
    """And have a line at each floor that is known."""
    timed = {"seconds": 1.25, "floor": 0.25, "bytes_floor": 0.0125}
    rows = {"one": timed, "other": {"seconds": 0.5, "floor": 1}}
    plots.bars(tmp_path / "bars.png", "it", rows)
    assert (tmp_path / "bars.png").stat().st_size > 1000
    axes = Figure().subplots()
    monkeypatch.setattr(plots, "picture", lambda *args, **size: contextlib.nullcontext(axes))
    plots.bars(tmp_path / "bars.png", "it", rows)
    assert [bar.get_width() for bar in axes.patches] == [1250.0, 500.0]
    work, moved = (lines.get_segments() for lines in axes.collections)
    assert [line[0][0] for line in work] == [250.0, 1000.0]
    assert [line[0][0] for line in moved if len(line)] == [12.5]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "other"]
