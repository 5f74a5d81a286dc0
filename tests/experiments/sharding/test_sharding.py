"""What a step needs on a mesh, of a model of a few numbers and of a program by hand."""

import dataclasses
import json

import pytest

from experiments.sharding import __main__ as command
from experiments.sharding import layout
from experiments.sorting.config import PRESETS
from experiments.sorting.task import SORTING
from inf_former_jax.training.sharding import make_mesh

PROGRAM = "\n".join(
    f'  %{name} = {result}({operands}), {groups}, metadata={{op_name="jit(train_step)/{place}"}}'
    for name, result, operands, groups, place in [
        (
            "all-reduce.1",
            "(f32[4,16]{1,0}, /*index=1*/bf16[8]{0}) all-reduce",
            "%a, %b",
            "replica_groups=mesh['axis_0'=2,'axis_1'=4], device_ids=([2,4]T(1,0)) {'axis_1'}",
            "while/body/dot",
        ),
        ("b", "f32[6]{0} all-reduce", "%c", "replica_groups=[2,4]<=[8]", "while/body/add"),
        (
            "c",
            "pred[3]{0} all-gather-start",
            "%d",
            "replica_groups={{0,1},{2,3}}, dimensions={0}",
            "reduce_and",
        ),
        ("add.4", "f32[6]{0} add", "%all-reduce.2", "x={}", "add"),
    ]
)


def test_collectives_of_a_program_by_hand():
    """4·16·4 + 8·2 and 6·4 bytes of two sums in each segment, and 3 bytes once."""
    assert layout.collectives(PROGRAM) == [
        {"kind": "all-gather", "among": 2, "when": "each update", "count": 1, "bytes": 3},
        {"kind": "all-reduce", "among": 4, "when": "each segment", "count": 2, "bytes": 296},
    ]


def tiny(**changes):
    """The ∞-former that sorts, with 4 heads of 2 and every part that a mesh may split."""
    config = PRESETS["infinity-former"][1]
    sizes = {"head_dim": 2, "d_model": 8, "d_inner": 8, "segment_len": 8, "mem_len": 8}
    assert config.model.long_term is not None
    memory = dataclasses.replace(config.model.long_term, num_basis=8, num_samples=8)
    model = dataclasses.replace(config.model, **sizes, num_layers=1, long_term=memory, **changes)
    return dataclasses.replace(config, model=model, batch_size=8)


def test_split_rows_need_the_sum_of_the_gradient_and_nothing_else():
    """Once an update, as many bytes as there are parameters, and a few sums of figures."""
    told = layout.told(tiny(), make_mesh(), 16, 3)
    assert told.mesh == {"data": 8, "fsdp": 1, "model": 1} and told.whole == []
    (row,) = told.collectives
    assert (row["kind"], row["among"], row["when"]) == ("all-reduce", 8, "each update")
    parameters = told.bytes_of["parameters"]
    assert parameters < row["bytes"] < parameters + 200
    # Two moments of Adam and two counters of four bytes; two rows of three segments a device.
    assert told.bytes_of["optimiser"] == 2 * parameters + 8
    assert told.bytes_of["batch"] == 2 * (3 * 8 * (4 + 4 + 4) + 3)
    one = layout.told(tiny(), make_mesh(1, 1), 16, 3)
    assert one.collectives == [] and one.bytes_of["parameters"] == parameters
    assert one.bytes_of["memory"] == 8 * told.bytes_of["memory"]


def test_shares_of_parameters_are_put_together_once_an_update():
    """On 2 × 4: matrices are a quarter on each device, told once, and so is their gradient."""
    told, whole = (layout.told(tiny(), make_mesh(fsdp=fsdp), 16, 3) for fsdp in (4, 1))
    assert told.mesh == {"data": 2, "fsdp": 4, "model": 1} and told.whole == []
    assert {row["when"] for row in told.collectives} == {"each update"}
    by_kind = {row["kind"]: row for row in told.collectives if row["among"] == 4}
    matrices, share = by_kind["all-gather"]["bytes"], by_kind["reduce-scatter"]["bytes"]
    vectors = whole.bytes_of["parameters"] - matrices
    assert share == matrices / 4 and 0 < vectors < 0.2 * matrices
    assert told.bytes_of["parameters"] == vectors + share
    assert told.bytes_of["optimiser"] == 2 * (vectors + share) + 8
    for name in ("memory", "batch", "operators"):
        assert told.bytes_of[name] == whole.bytes_of[name]


def test_split_heads_hold_less_and_say_more(tmp_path, monkeypatch, capsys):
    """Four devices share a row: less parameters on each, and sums in each segment."""
    presets = {"tiny": ("", tiny(vocab_size=24))}
    monkeypatch.setattr(
        command, "EXPERIMENTS", {"sorting": dataclasses.replace(SORTING, presets=presets)}
    )
    options = ["--model", "4", "--batch-size", "4", "--segments", "2", "--out", str(tmp_path)]
    command.main(["sorting", "tiny", *options])
    told = json.loads((tmp_path / "sharding.json").read_text())
    assert told["mesh"] == {"data": 2, "fsdp": 1, "model": 4} and told["whole"] == []
    whole = layout.told(tiny(vocab_size=24), make_mesh(1, 1), 4, 2)
    assert told["bytes_of"]["parameters"] < 0.6 * whole.bytes_of["parameters"]
    assert told["bytes_of"]["memory"] == pytest.approx(whole.bytes_of["memory"] / 2, abs=4)
    assert any(row["when"] == "each segment" for row in told["collectives"])
    assert {row["among"] for row in told["collectives"]} <= {2, 4, 8}
    assert "all-reduce" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv, told",
    [
        (["--devices", "8"], "EXPERIMENT: found --devices, accepted: sorting, "),
        (["sorting"], "PRESET: found none, accepted: infinity-former, "),
        (["sorting", "nope"], "PRESET: found nope, accepted: infinity-former, "),
        (["sorting", "vanilla", "--fsdp", "3"], "mesh_fsdp: found 3, accepted: a divisor of 8"),
        (["sorting", "vanilla", "--model", "3"], "mesh_model: found 3, accepted: a divisor of 8"),
        (["sorting", "vanilla", "--batch-size", "4"], "batch_size: found 4, accepted: a multiple"),
    ],
)
def test_bad_input_is_one_line(argv, told, capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main(argv)
    error = capsys.readouterr().err
    assert error.startswith(f"error: {told}") and error.count("\n") == 1
