"""Floors of a training step are those counted by hand; options name what there is."""

import json
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import plots as plots_benchmark
from experiments.benchmark import steps as benchmark_steps
from experiments.benchmark import stream as benchmark_stream
from experiments.benchmark import timing as benchmark_timing
from experiments.benchmark import update as benchmark_update
from experiments.results import benchmark as results_benchmark
from experiments.sorting import config as sorting
from inf_former_jax.memory import state
from inf_former_jax.models import presets
from inf_former_jax.training import optim, schedules
from inf_former_jax.training.objective import Objective

B, W, T, E, H, K, D, V = 8, 3, 32, 16, 2, 8, 16, 32  # of `tiny`; D of the feed-forward layer


@pytest.fixture(scope="module")
def tiny():
    """A Transformer without any memory: its products are few enough to count."""
    return presets.vanilla(
        num_layers=1, num_heads=H, head_dim=K, d_model=E, d_inner=D, segment_len=T,
        vocab_size=V, dropout=0.0, query_chunk=T,
    )  # fmt: skip


def sorting_batch(rows):
    """W segments, of which the last has loss."""
    examples = benchmark_steps.sorting_task.examples_of(
        sorting.SortingConfig(
            model=presets.vanilla(segment_len=T), optim=optim.OptimConfig(), length=W * T - 20
        )
    )
    return examples.batch("train", rows)


@pytest.fixture(scope="module")
def update(tiny):
    return benchmark_update.prepare(
        tiny, optim.optimizer(optim.OptimConfig()), Objective(), sorting_batch, 1
    )


def products(rows):
    """q, k, v, out; scores by key, and values; the feed-forward layer; logits. No positions."""
    heads, inner = 4 * E * H * K + 2 * H * T * K, 2 * E * D
    return 2 * rows * T * (heads + inner + E * V)


@pytest.mark.slow
def test_operations_of_segments_without_loss(tiny, update):
    """Without a memory nothing of them is needed: only the one segment with loss counts."""
    alone = benchmark_update.prepare(
        tiny, optim.optimizer(optim.OptimConfig()), Objective(),
        lambda rows: jax.tree.map(lambda leaf: leaf[:, -1:], sorting_batch(rows)), 1,
    )  # fmt: skip
    assert sum(update.operations.values()) == sum(alone.operations.values())
    # Forward and two backward, each at least the products without positions.
    assert sum(alone.operations.values()) >= 3 * products(jax.device_count())
    assert update.tokens == W * alone.tokens == W * T * jax.device_count()


@pytest.mark.slow
def test_an_update_trains(update):
    """Each goes on from the last: the loss falls."""
    losses = [float(update.run()["loss"]) for _ in range(3)]
    assert losses[0] > losses[1] > losses[2]
    assert update.moved > 0 and update.program > 1000 and min(update.trace, update.compile) > 0


def test_branches_taken():
    """Sequential: segments with loss, of context and of padding."""
    batch = sorting_batch(np.arange(2))
    assert benchmark_update.branches_taken(batch, "sequential") == [(1, 2, 0)]
    valid = np.ones_like(batch.weights, bool)
    valid[:, 0] = False
    valid[0, 1] = False
    padded = batch._replace(valid=valid)
    assert benchmark_update.branches_taken(padded, "sequential") == [(1, 1, 1)]
    # Of programs whose gradient begins at 0, 1, 2 or nowhere, and one for padding.
    full = batch._replace(weights=np.ones_like(batch.weights))
    assert benchmark_update.branches_taken(batch, "parallel") == [(0, 0, 1, 0, 0)]
    assert benchmark_update.branches_taken(full, "parallel") == [(1, 0, 0, 0, 0)]


@pytest.mark.parametrize(
    ("k", "taken"), [(1, [(0, 1, 0), (1, 0, 0)]), (2, [(1, 0, 0)]), (4, [(1, 0, 0)])]
)  # fmt: skip
def test_branches_taken_where_the_memory_is_differentiated(k, taken):
    """Groups with and without loss, of k + 1 segments; the first one has what remains."""
    batch = sorting_batch(np.arange(2))
    found = benchmark_update.branches_taken(batch, "sequential", memory_gradient=k)
    assert found == taken


@pytest.mark.parametrize(
    ("segments", "taken"),
    [(1, [(1, 1, 1)]), (2, [(0, 0, 1), (0, 1, 0, 0)]), (4, [(0, 0, 1, 0, 0)])],
)  # fmt: skip
def test_branches_taken_by_groups(segments, taken):
    """Of padding, context and loss: first without, then with a smaller first group."""
    batch = sorting_batch(np.arange(2))
    valid = np.ones_like(batch.weights, bool)
    valid[:, 0] = False
    with mock.patch.object(schedules, "CACHED_TOKENS", segments * batch.tokens[:, 0].size):
        found = benchmark_update.branches_taken(batch._replace(valid=valid), "parallel")
    assert found == taken


def test_operations_of_a_choice_by_how_often_it_is_taken():
    """Of 4 turns 3 take [2,3] [3,3] and one takes two of them; what nobody uses is not counted."""
    w = jnp.ones((3, 3))

    def run(kinds):
        def body(a, kind):
            unused = (a @ w) @ w
            branches = (lambda a: a, lambda a: a @ w, lambda a: (a @ w) @ w)
            return jax.lax.switch(kind, branches, a), unused.sum()

        return jax.lax.scan(body, jnp.ones((2, 3)), kinds)[0]

    jaxpr = jax.make_jaxpr(run)(jnp.zeros(4, int)).jaxpr
    one = 2 * 2 * 3 * 3
    assert benchmark_timing.operations(jaxpr, [(0, 3, 1)]).total() == 5 * one
    assert benchmark_timing.operations(jaxpr, [(2, 1, 1)]).total() == 3 * one
    # Among another number of branches, or not known: the cheapest that has products, each time.
    assert benchmark_timing.operations(jaxpr, [(3, 1)]).total() == 4 * one
    # One after the other, each with its own.
    twice = jax.make_jaxpr(lambda kinds: run(kinds) + run(kinds))(jnp.zeros(4, int)).jaxpr
    assert benchmark_timing.operations(twice, [(0, 3, 1), (2, 1, 1)]).total() == 8 * one
    assert benchmark_timing.operations(jaxpr).total() == 4 * one


def test_operations_by_kind():
    """An accelerator has its own rate for each."""
    highest, a = jax.lax.Precision.HIGHEST, jnp.ones((2, 3))
    few = jnp.ones((3, 1), jnp.bfloat16)

    def run(a, few):
        return jnp.matmul(a, a.T, precision=highest), a @ a.T, few.T @ few

    found = benchmark_timing.operations(jax.make_jaxpr(run)(a, few).jaxpr)
    assert found == {"float32": 24, "float32 default": 24, "bfloat16": 6}


def test_floors_by_hand():
    rates = {"float32": 100.0, "bfloat16": 400.0, "bytes": 10.0}
    found = benchmark_timing.floors(4.0, {"float32": 100, "bfloat16": 400}, 10, rates)
    assert found == {
        "operations": 500, "floor": 2.0, "share": 0.5,
        "bytes": 10, "bytes_floor": 1.0, "bytes_share": 0.25,
    }  # fmt: skip


def test_rates_of_a_machine():
    """[8, 8] products and vectors of 8 · 64 numbers, two read and one written; the best run."""
    machine = benchmark_timing.Machine(8, ("float32", "bfloat16"))
    by_turns = [float(machine.variants["machine", "bytes"]()[0]) for _ in range(3)]
    assert by_turns == [3.0, 5.0, 7.0]
    assert all(jnp.isfinite(run()).all() for run in machine.variants.values())
    seconds = {("machine", "float32"): [2.0, 9.0, 1.0], ("machine", "bfloat16"): [0.5],
               ("machine", "bytes"): [3.0]}  # fmt: skip
    rates = {"float32": 1024.0, "bfloat16": 2048.0, "bytes": 4 * 8 * 64.0}
    assert machine.rates(seconds) == rates


def test_default_presets():
    """All of them; on a CPU those of paper size with one row, elsewhere also with eight."""
    on_cpu, elsewhere = benchmark_steps.default("cpu"), benchmark_steps.default("gpu")
    assert {name.partition(":")[0] for name in on_cpu} == set(benchmark_steps.configs())
    assert set(sorting.PRESETS) <= set(benchmark_steps.configs())
    assert [name for name in on_cpu if "paper" in name] == [
        "paper-4k:1",
        "paper-8k:1",
        "paper-16k:1",
    ]
    assert set(elsewhere) - set(on_cpu) == {"paper-4k", "paper-8k", "paper-16k"}
    benchmark_steps.check(elsewhere, benchmark_steps.SCHEDULES, benchmark_steps.DTYPES)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("paper-4k:1", (1, 4, 1024)),
        ("paper-4k", (8, 4, 1024)),
        ("infinity-former", (16, 17, 64)),
        ("small", (8, 5, 128)),
        ("gpt2-infinity-lasting", (8, 8, 128)),
    ],
)
def test_batches(name, shape):
    """Rows, segments and tokens; sorting has loss in its last segment, text in all of them."""
    cfg = benchmark_steps.config(name, False)
    assert cfg.batch_size == shape[0]
    batch = benchmark_steps.batches(cfg, cfg.batch_size)(np.arange(cfg.batch_size))
    assert batch.tokens.shape == shape and batch.tokens.max() < cfg.model.vocab_size
    carries = (batch.weights > 0).any(axis=(0, 2))
    is_text = name.startswith("gpt2")
    assert carries.all() if is_text else (carries.sum(), carries[-1]) == (1, True)
    assert batch.weights.sum() == shape[0] * (shape[1] * shape[2] if is_text else 20)
    assert batch.resets[:, 0].all() and not batch.resets[:, 1:].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--presets", "paper-5k"], "presets: found paper-5k, accepted: infinity-former, "),
        (["--presets", "paper-4k:"], "presets: found paper-4k:, accepted: "),
        (["--presets", "paper-4k:0"], "presets: found paper-4k:0, accepted: "),
        (["--schedules", "both"], "schedules: found both, accepted: sequential, parallel"),
        (["--dtypes", "float16"], "dtypes: found float16, accepted: float32, bfloat16, "),
    ],
)
def test_refusals(options, message, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        benchmark.main([*options, "--out", str(tmp_path)])
    assert stopped.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.slow
def test_quick_steps(tmp_path):
    """Both schedules where there are two, whose floors are their operations at these rates."""
    options = ["--presets", "transformer-xl:1", "compressive:1", "--schedules", "sequential",
               "parallel", "--dtypes", "bfloat16", "--out", str(tmp_path)]  # fmt: skip
    benchmark.main(["--quick", "--measure", "steps", *options])
    found = json.loads((tmp_path / "steps.json").read_text())["found"]["steps"]
    labels = [(row["preset"], row["schedule"], row["dtype"], row["batch"]) for row in found["rows"]]
    assert labels == [
        ("transformer-xl:1", "sequential", "bfloat16", 1),
        ("transformer-xl:1", "parallel", "bfloat16", 1),
        ("compressive:1", "sequential", "bfloat16", 1),
    ]
    one, other = found["rows"][:2]
    # Of two segments the last has loss: either schedule runs one forward and differentiates one.
    assert other["operations"] == one["operations"] > 0
    assert other["temporaries_mib"] > one["temporaries_mib"] > 0
    for row in found["rows"]:
        assert row["tokens"] == 64 * jax.device_count()
        assert row["tokens_per_second"] == pytest.approx(row["tokens"] / row["seconds"])
        assert 0 < row["least"] <= row["seconds"]
        assert row["bytes_floor"] == pytest.approx(row["bytes"] / found["rates"]["bytes"])
        assert row["share"] == pytest.approx(row["floor"] / row["seconds"])
    assert (tmp_path / "steps.png").read_bytes()[:4] == b"\x89PNG"


def test_growth_is_an_error(tiny_model):
    """Of live arrays by more than a hundredth, of the process by more than a tenth."""
    memory = state.init(tiny_model, 1)

    def rows(live, host):
        return [{"live_mib": 10.0, "host_mib": 100.0}, {"live_mib": live, "host_mib": host}]

    benchmark_stream.require_whole(rows(10.05, 109.0), 1, memory, 0)
    for live, host, name in ((10.2, 100.0, "live_mib"), (10.0, 111.0, "host_mib")):
        with pytest.raises(RuntimeError, match=f"^stream: {name}: found .*; expected no growth"):
            benchmark_stream.require_whole(rows(live, host), 1, memory, 0)
    for programs, writes in ((2, 0), (1, 1)):
        with pytest.raises(RuntimeError, match=f"found {programs} programs, 0 writes, finite True"):
            benchmark_stream.require_whole(rows(10.0, 100.0), programs, memory, writes)
    broken = jax.tree.map(
        lambda leaf: leaf * jnp.nan if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, memory
    )
    with pytest.raises(RuntimeError, match="finite False"):
        benchmark_stream.require_whole(rows(10.0, 100.0), 1, broken, 0)
    assert 2**20 < benchmark_stream.host_bytes() < 2**40


def row_of_floors(seconds):
    return {"seconds": seconds, "floor": 0.25, "share": 0.25 / seconds, "operations": 1,
            "bytes": 1, "bytes_floor": 0.0125, "bytes_share": 0.0125 / seconds}  # fmt: skip


STEP = row_of_floors(1.25) | {
    "preset": "paper-4k:1", "schedule": "sequential", "dtype": "float32", "batch": 1,
    "tokens": 4096, "least": 1.0, "tokens_per_second": 3277.0, "temporaries_mib": 123.4,
    "trace": 1.26, "compile": 5.26, "program_bytes": 3 * 2**19,
}  # fmt: skip
STREAM = row_of_floors(0.5) | {
    "tokens": 4096, "seconds_per_segment": 0.5, "seconds_per_token": 45e-6, "live_mib": 12.6,
    "host_mib": 321.0,
}  # fmt: skip


def test_rows_of_the_table():
    found = {"steps": {"rows": [STEP]}, "stream": {"rows": [STREAM]}}
    result = {"found": found, "device": "cpu", "commit": "c", "date": "d"}
    assert results_benchmark.benchmark_table([result]).splitlines()[2:] == [
        "| a segment of 128 after 4,096 tokens of one document | 500.0 ms, 45 µs a token | "
        "12.6 MiB alive, 321 of the process; floor 250 ms (50%), of bytes 12.5 ms (2%) "
        "| cpu, c, d |",
        "| a training step of `paper-4k`, B 1, sequential, float32 | 1,250 ms, least 1,000 | "
        "3,277 tokens/s; floor 250 ms (20%), of bytes 12.5 ms (1%); 123 MiB of temporaries; "
        "traced in 1.3 s, compiled in 5.3 s to 1.5 MiB of HLO | cpu, c, d |",
    ]


def test_pictures(tmp_path, monkeypatch):
    """A bar a row as long as its median, a line at each floor; one file a measure."""
    drawn = {}
    monkeypatch.setattr(plots_benchmark.plt, "close", lambda figure: drawn.update(last=figure))
    form = row_of_floors(0.5)
    found = {
        "stream": {"segment": 128, "rows": [STREAM, STREAM | {"tokens": 8192}]},
        "memory": {"sizes": {"B": 8}, "rows": [
            {"part": "read", "pass": "forward", "literal": row_of_floors(1.0), "ours": form}]},
        "generation": {},
    }  # fmt: skip
    paths = plots_benchmark.draw(tmp_path, found)
    assert sorted(path.name for path in paths) == ["memory.png", "stream.png"]
    assert all(path.stat().st_size > 1000 for path in paths)
    plots_benchmark.draw(tmp_path, {"steps": {"rows": [STEP]}})
    (axes,) = drawn["last"].axes
    assert [bar.get_width() for bar in axes.patches] == [1250.0]
    assert [lines.get_segments()[0][0][0] for lines in axes.collections] == [250.0, 12.5]
    assert axes.get_yticklabels()[0].get_text() == "paper-4k:1, B 1, sequential, float32"
    monkeypatch.undo()
    plots_benchmark.plt.close("all")
