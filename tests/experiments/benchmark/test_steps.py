"""Floors of a training step are those counted by hand; presets and their batches."""

import dataclasses
import json
from unittest import mock

import numpy as np
import pytest

from experiments.benchmark import __main__ as benchmark
from experiments.benchmark.steps import (
    batches,
    branches_taken,
    config,
    configs,
    default,
    kinds_within,
    tokens_of,
    update,
)
from experiments.sorting.config import PRESETS, SortingConfig
from inf_former_jax.models import presets
from inf_former_jax.training import schedules
from inf_former_jax.training.optim import OptimConfig

W, T, E, H, K, D, V = 3, 32, 16, 2, 8, 16, 32  # of TINY; D of the feed-forward layer

#: A Transformer without any memory, whose products are few enough to count, on W segments.
TINY = SortingConfig(
    model=presets.vanilla(
        num_layers=1,
        num_heads=H,
        head_dim=K,
        d_model=E,
        d_inner=D,
        segment_len=T,
        vocab_size=V,
        dropout=0.0,
        query_chunk=T,
    ),
    optim=OptimConfig(),
    length=W * T - 20,
    batch_size=1,
)


@pytest.fixture(scope="module")
def tiny_update():
    return update(TINY, "sequential", TINY.model)


@pytest.fixture
def batch():
    """Two rows of W segments, of which the last has loss."""
    return batches(TINY, 2)(np.arange(2))


def products(rows):
    """q, k, v, out; scores by key, and values; the feed-forward layer; logits. No positions."""
    heads, inner = 4 * E * H * K + 2 * H * T * K, 2 * E * D
    return 2 * rows * T * (heads + inner + E * V)


@pytest.mark.slow
def test_operations_of_segments_without_loss(tiny_update):
    """Without a memory nothing of them is needed: only the one segment with loss counts."""
    case, batch = tiny_update
    alone, last = update(dataclasses.replace(TINY, length=T - 20), "sequential", TINY.model)
    assert sum(case.operations.values()) == sum(alone.operations.values())
    # Forward and two backward, each at least the products without positions.
    assert sum(alone.operations.values()) >= 3 * products(1)
    assert batch.tokens.size == W * last.tokens.size == W * T


@pytest.mark.slow
def test_an_update_trains(tiny_update):
    """Each goes on from the last: the loss falls."""
    case, _ = tiny_update
    losses = [float(case.run()["loss"]) for _ in range(3)]
    assert losses[0] > losses[1] > losses[2]
    known = dict(case.known)
    assert known.pop("operators_mib") == 0  # of a model without a long-term memory
    assert case.moved > 0 and min(known.values()) > 0 and known["program_bytes"] > 1000


def padded(batch):
    """The first segment is padding in both rows, the second in one of them."""
    valid = np.ones_like(batch.weights, bool)
    valid[:, 0] = False
    valid[0, 1] = False
    return batch._replace(valid=valid)


def test_branches_taken(batch):
    """Sequential: segments with loss, of context and of padding."""
    assert branches_taken(batch, "sequential") == [(1, 2, 0)]
    assert branches_taken(padded(batch), "sequential") == [(1, 1, 1)]
    # Of programs whose gradient begins at 0, 1, 2 or nowhere, and one for padding.
    full = batch._replace(weights=np.ones_like(batch.weights))
    assert branches_taken(batch, "parallel") == [(0, 0, 1, 0, 0)]
    assert branches_taken(full, "parallel") == [(1, 0, 0, 0, 0)]


@pytest.mark.parametrize(
    ("segments", "taken"), [(1, [(0, 1, 0), (1, 0, 0)]), (2, [(1, 0, 0)]), (4, [(1, 0, 0)])]
)
def test_branches_taken_where_the_memory_is_differentiated(batch, segments, taken):
    """Groups with and without loss, of one more segment; the first one has what remains."""
    assert branches_taken(batch, "sequential", memory_gradient=segments) == taken


@pytest.mark.parametrize(
    ("segments", "within"), [(0, ()), (1, (0, 0, 1)), (2, (1, 1, 1)), (4, (1, 1, 1))]
)
def test_kinds_within_groups_that_have_loss(batch, segments, within):
    """Of padding, context and loss, in groups counted from the end."""
    weights = batch.weights[:, ::-1]  # loss in the first of three segments
    valid = np.ones_like(weights, bool)
    valid[:, 1] = False
    moved = batch._replace(weights=weights, valid=valid)
    assert kinds_within(moved, segments) == within


@pytest.mark.parametrize(
    ("segments", "taken"),
    [(1, [(1, 1, 1)]), (2, [(0, 0, 1), (0, 1, 0, 0)]), (4, [(0, 0, 1, 0, 0)])],
)
def test_branches_taken_by_groups(batch, segments, taken):
    """Of padding, context and loss: first without, then with a smaller first group."""
    with mock.patch.object(schedules, "CACHED_TOKENS", segments * batch.tokens[:, 0].size):
        assert branches_taken(padded(batch), "parallel") == taken


def test_branches_taken_on_devices(batch):
    """Each device runs as many segments at once as its own rows let it."""
    with mock.patch.object(schedules, "CACHED_TOKENS", batch.tokens[:, 0].size):
        assert branches_taken(padded(batch), "parallel", devices=1) == [(1, 1, 1)]
        assert branches_taken(padded(batch), "parallel", devices=2) == [(0, 0, 1), (0, 1, 0, 0)]


def test_default_presets():
    """All of them; on a CPU those of paper size with one row, elsewhere also with eight."""
    on_cpu, elsewhere = default("cpu"), default("gpu")
    assert {name.partition(":")[0] for name in on_cpu} == set(configs()) >= set(PRESETS)
    papers = ["paper-4k", "paper-8k", "paper-16k"]
    assert [name for name in on_cpu if "paper" in name] == [f"{name}:1" for name in papers]
    assert set(elsewhere) - set(on_cpu) == set(papers)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("paper-4k:1", (1, 4, 1024)),
        ("paper-4k", (8, 4, 1024)),
        ("infinity-former", (16, 17, 64)),
        ("small", (8, 5, 128)),
        ("recall", (64, 5, 16)),
        ("gpt2-infinity-lasting", (8, 8, 128)),
    ],
)
def test_batches(name, shape):
    """Rows, segments and tokens; sorting has loss in its last segment, text in all of them."""
    cfg = config(name, False)
    assert cfg.batch_size == shape[0]
    batch = batches(cfg, cfg.batch_size)(np.arange(cfg.batch_size))
    assert batch.tokens.shape == shape and batch.tokens.max() < cfg.model.vocab_size
    carries = (batch.weights > 0).any(axis=(0, 2))
    is_text = name.startswith("gpt2")
    assert carries.all() if is_text else (carries.sum(), carries[-1]) == (1, True)
    scored = {"recall": 2, "gpt2-infinity-lasting": shape[1] * shape[2]}.get(name, 20)
    assert batch.weights.sum() == shape[0] * scored
    # 76 places of the paper's 4 segments are padding, of the others none.
    padding = 76 if name.startswith("paper-4k") else 0
    assert tokens_of(batch) == batch.tokens.size - shape[0] * padding
    assert batch.resets[:, 0].all() and not batch.resets[:, 1:].any()


@pytest.mark.slow
def test_quick_steps(tmp_path):
    """Both schedules where there are two, whose floors are their operations at these rates."""
    options = ["--presets", "transformer-xl:1", "compressive:1", "--dtypes", "bfloat16"]
    options += ["--schedules", "sequential", "parallel", "--out", str(tmp_path)]
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
        assert (row["tokens"], row["devices"]) == (64, 1)
        assert row["literal_floor"] == pytest.approx(
            row["floor"] * row["literal_operations"] / row["operations"]
        )
        assert row["tokens_per_second"] == pytest.approx(row["tokens"] / row["seconds"])
        assert 0 < row["least"] <= row["seconds"]
        assert row["bytes_floor"] == pytest.approx(row["bytes"] / found["rates"]["bytes"])
        assert row["share"] == pytest.approx(row["floor"] / row["seconds"])
    assert (tmp_path / "steps.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_quick_memory_gradient(tmp_path):
    benchmark.main(["--quick", "--measure", "memory_gradient", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "memory_gradient.json").read_text())["found"]["memory_gradient"]
    row = found["sorting, 2 segments"]["1"]
    assert row["temporaries_mib"] > 0 and row["seconds"] > 0 and row["program_bytes"] > 1000
    assert row["share"] == pytest.approx(row["floor"] / row["seconds"]) and row["floor"] > 0
