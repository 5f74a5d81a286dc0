"""Kernels of a compiled program are those counted by hand, their products those of its trace."""

import jax
import jax.numpy as jnp
import pytest

from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import hlo as benchmark_hlo
from experiments.benchmark import kernels as benchmark_kernels
from experiments.benchmark import timing as benchmark_timing
from experiments.benchmark.hlo import Kernel
from experiments.results.benchmark import benchmark_table, kernels_table

#: What XLA writes, shortened: a loop of 5, a choice of three, a library's product, slices.
TEXT = """HloModule jit_f, is_scheduled=true

%fused_slice (p0: f32[10,4], p1: s32[], p2: f32[5,4]) -> f32[5,4] {
  %p0 = f32[10,4]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %p2 = f32[5,4]{1,0} parameter(2)
  %zero = s32[] constant(0)
  %row = f32[1,4]{1,0} dynamic-slice(%p0, %p1, %zero), dynamic_slice_sizes={1,4}
  ROOT %put = f32[5,4]{1,0} dynamic-update-slice(%p2, %row, %p1, %zero)
}

%fused_product (p0: bf16[2,3], p1: bf16[3,4]) -> bf16[2,4] {
  %p0 = bf16[2,3]{1,0} parameter(0)
  %p1 = bf16[3,4]{1,0} parameter(1)
  ROOT %dot = bf16[2,4]{1,0} dot(%p0, %p1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (state: (s32[], f32[10,4], f32[5,4])) -> (s32[], f32[10,4], f32[5,4]) {
  %state = (s32[], f32[10,4]{1,0}, /*index=2*/f32[5,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %rows = f32[10,4]{1,0} get-tuple-element(%state), index=1
  %old = f32[5,4]{1,0} get-tuple-element(%state), index=2
  %new = f32[5,4]{1,0} fusion(%rows, %i, %old), kind=kLoop, calls=%fused_slice
  ROOT %next = (s32[], f32[10,4]{1,0}, f32[5,4]{1,0}) tuple(%i, %rows, %new)
}

%first (a: f32[2,3]) -> f32[2,3] {
  ROOT %a = f32[2,3]{1,0} parameter(0)
}

%second (a: f32[2,3]) -> f32[2,3] {
  %a = f32[2,3]{1,0} parameter(0)
  ROOT %copy = f32[2,3]{1,0} copy(%a)
}

%third (a: f32[2,3]) -> f32[2,3] {
  %a = f32[2,3]{1,0} parameter(0)
  %one = f32[2,3]{1,0} copy(%a)
  ROOT %two = f32[2,3]{1,0} copy(%one)
}

ENTRY %main (x: f32[2,3], w: f32[3,4], k: s32[], n: bf16[2,3], v: bf16[3,4]) -> f32[2,4] {
  %x = f32[2,3]{1,0} parameter(0)
  %w = f32[3,4]{1,0} parameter(1), metadata={op_name="(w"}
  %k = s32[] parameter(2)
  %n = bf16[2,3]{1,0} parameter(3)
  %v = bf16[3,4]{1,0} parameter(4)
  %loop = (s32[], f32[10,4]{1,0}, f32[5,4]{1,0}) while(%k), condition=%c, body=%body, \
backend_config={"known_trip_count":{"n":"5"},"known_init_step":{"init":"0"}}
  %chosen = f32[2,3]{1,0} conditional(%k, %x, %x, %x), branch_computations={%first, %second, %third}
  %half = bf16[2,4]{1,0} fusion(%n, %v), kind=kCustom, calls=%fused_product
  ROOT %out = (f32[2,4]{1,0}, s8[33554432]{0}) custom-call(%chosen, %w), \
custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{\
"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"lhs_batch_dimensions":[]},\
"precision_config":{"operand_precision":["HIGHEST","HIGHEST"]}}}
}
"""

#: cuDNN's attention of 2 rows, 3 heads of width 8, 4 queries and 10 keys, and its gradient.
ATTENTION = """HloModule jit_f

ENTRY %main (q: bf16[2,4,3,8], k: bf16[2,10,3,8], b: bf16[2,3,4,10]) -> bf16[2,3,4,8] {
  %q = bf16[2,4,3,8]{3,2,1,0} parameter(0)
  %k = bf16[2,10,3,8]{3,2,1,0} parameter(1)
  %b = bf16[2,3,4,10]{3,2,1,0} parameter(2)
  %z = (bf16[2,3,4,8]{3,1,2,0}, u8[0]{0}) custom-call(%q, %k, %k, %b), \
custom_call_target="__cudnn$fmhaScaleBiasSoftmax"
  ROOT %g = (bf16[2,3,4,8]{3,1,2,0}, u8[0]{0}) custom-call(%q, %k, %k, %b), \
custom_call_target="__cudnn$fmhaScaleBiasSoftmaxBackward"
}
"""


def test_kernels_of_attention_by_hand():
    """Two products forward, five backward; bytes of the operands and the result."""
    one, moved = 2 * 2 * 3 * 4 * 10 * 8, 2 * (2 * 4 * 3 * 8 + 2 * 2 * 10 * 3 * 8 + 2 * 3 * 4 * 10)
    moved += 2 * 2 * 3 * 4 * 8
    expected = [Kernel(1, moved, {"bfloat16": products * one}) for products in (2, 5)]
    assert list(benchmark_hlo.kernels(ATTENTION)) == expected


SLICE = Kernel(5, 2 * 4 * 4 + 4, {})  # a row read, a row written, a number read
CHOICE, COPY = Kernel(1, 4, {}), 2 * 2 * 3 * 4
HALF = Kernel(1, 2 * (6 + 12 + 8), {"bfloat16": 2 * 2 * 3 * 4})
LIBRARY = Kernel(1, 4 * (6 + 12 + 8), {"float32": 2 * 2 * 3 * 4})  # without its room to work in


@pytest.mark.parametrize(
    ("taken", "copies"),
    [
        ([(2, 1, 1)], [Kernel(0.25, COPY, {})] * 3),
        ([(3, 0, 0)], []),
        ([], [Kernel(1, COPY, {})] * 2),  # of unknown ones the longest branch
        ([(1, 1)], [Kernel(1, COPY, {})] * 2),  # they are those of another choice
    ],
)
def test_kernels_by_hand(taken, copies):
    expected = [SLICE, CHOICE, *copies, HALF, LIBRARY]
    assert list(benchmark_hlo.kernels(TEXT, taken)) == expected


def test_seconds_of_a_kernel():
    rates = {"bfloat16": 100.0, "bytes": 10.0}
    assert Kernel(3, 10, {"bfloat16": 50}).seconds(rates) == 1.0
    assert Kernel(3, 10, {"bfloat16": 200}).seconds(rates) == 2.0


def test_summary():
    """24 + 24 operations; all of it is shorter than a launch."""
    found = benchmark_kernels.summary(TEXT, [(3, 0, 0)])
    assert found["kernels"] == found["short"] == 8
    assert found["operations"] == {"bfloat16": 48, "float32": 48}
    assert found["bytes"] == 5 * 36 + 4 + 52 + 104
    assert found["floor"] == pytest.approx(found["bytes"] / 3.35e12)
    assert found["estimate"] == pytest.approx(8 * 3e-6)


def test_a_compiled_program_has_the_products_of_its_trace():
    """This machine's own: a loop, inside it a choice, and batches of products."""

    def run(x, kinds):
        def body(x, kind):
            twice = jax.lax.cond(kind, lambda x: jnp.tanh(x) @ x, lambda x: x, x)
            return jnp.sin(twice), jnp.einsum("rc,rk->ck", x, twice)

        x, found = jax.lax.scan(body, x, kinds)
        return x, jnp.einsum("bij,bjk->bik", found, found)

    traced = jax.jit(run).trace(jnp.ones((24, 24)), jnp.arange(3) > 0)
    text = traced.lower().compile().as_text()
    expected = benchmark_timing.operations(traced.jaxpr.jaxpr, [(1, 2)])
    found = benchmark_kernels.summary(text, [(1, 2)])
    assert sum(found["operations"].values()) == expected.total() == 2 * 24**3 * (3 + 2 + 3)


def test_rows_of_the_table():
    row = {"preset": "paper-4k:1", "schedule": "sequential", "dtype": "float32", "batch": 1,
           "kernels": 1234.0, "short": 1000.0, "bytes": 2.5e9, "operations": {"float32": 25e9},
           "floor": 0.002, "estimate": 0.005, "temporaries_mib": 512.0, "compile": 1.0}  # fmt: skip
    other = row | {"schedule": "parallel", "kernels": 617.0, "estimate": 0.004, "bytes": 2e9}
    alone = row | {"preset": "compressive", "operations": {"bfloat16": 3e9, "float32": 1e9}}
    found = {"kernels": {"device": "H100", "launch": 3e-6, "rows": [row, other, alone]}}
    result = {"found": found, "device": "cpu", "commit": "c", "date": "d"}
    assert kernels_table([result]).splitlines()[2:] == [
        "| `paper-4k` | 1 | float32 | 1,234 : 617 = 2.00 | 2.5 : 2.0 = 1.25 | 0.025 : 0.025 = 1.00 "
        "| 2.00 : 2.00 = 1.00 | 5.00 : 4.00 = 1.25 | 0.50 : 0.50 = 1.00 | cpu, c, d |",
        "| `compressive` | 1 | float32 | 1,234 | 2.5 | 0.004 | 2.00 | 5.00 | 0.50 | cpu, c, d |",
    ]
    assert benchmark_table([result]).splitlines()[2:] == []


def test_without_a_compiler_nothing_begins(capsys, tmp_path, monkeypatch):
    def missing(*args, **kwargs):
        raise NotImplementedError("topology not implemented for cuda")

    monkeypatch.setattr(benchmark_kernels.topologies, "get_topology_desc", missing)
    with pytest.raises(SystemExit) as stopped:
        benchmark.main(["--measure", "stream", "kernels", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "kernels: found no compiler for CUDA (topology not" in said
    assert "pip install '.[cuda]'" in said
