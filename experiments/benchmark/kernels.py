"""The kernels of a training step on an H100, counted in the program that XLA compiles for one.

No GPU is needed, only its compiler (`pip install '.[cuda]'`; without a GPU `JAX_PLATFORMS=cpu`).
Nothing is run: what a step takes is bounded from below by its kernels' operations and bytes at the
rates of NVIDIA's data sheet, and from their number by what starting one takes. A schedule's gain
lies between the quotients of both: the first where kernels are large, the second where they are
small. Products are cuBLAS's, whose choice of program is left out.
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from experiments.benchmark import steps as benchmark_steps
from experiments.benchmark import update as benchmark_update
from experiments.benchmark.hlo import kernels
from inf_former_jax.models.decoder import operators
from inf_former_jax.training import optim, sharding
from inf_former_jax.training.state import abstract_state
from inf_former_jax.training.step import make_train_step

#: What XLA has to know of a device that is not there: an H100 SXM.
H100 = """
gpu_device_info {
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98 threads_per_warp: 32
  threads_per_block_limit: 1024 threads_per_core_limit: 2048
  registers_per_block_limit: 65536 registers_per_core_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472 l2_cache_size: 52428800
  memory_bandwidth: 3352320000000 device_memory_size: 84978434048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
runtime_version { major: 12 minor: 9 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""

#: Operations and bytes a second by its data sheet, without sparsity; JAX's default is TF32.
RATES = {"float32": 67e12, "float32 default": 494.7e12, "bfloat16": 989.4e12, "bytes": 3.35e12}

#: Seconds from the start of a kernel that does nothing to that of the next one, about.
LAUNCH = 3e-6

#: Nothing can be tried out on a device that is not there.
OPTIONS = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}


def mesh() -> jax.sharding.Mesh:
    """One H100, as the mesh (data, model).

    Raises:
        ValueError: this JAX has no compiler for it.
    """
    try:
        found = topologies.get_topology_desc("", "cuda", target_config=H100, topology="1x1x1")
    except (NotImplementedError, RuntimeError) as missing:
        raise ValueError(
            f"measure kernels: found no compiler for CUDA ({missing}), accepted: "
            "pip install '.[cuda]', and JAX_PLATFORMS=cpu on a machine without a GPU"
        ) from missing
    return topologies.make_mesh(found, (1, 1), ("data", "model"))


def program(cfg: Any, schedule: str, of: jax.sharding.Mesh) -> tuple[Any, list[tuple[int, ...]]]:
    """(the compiled training step of a preset, `branches_taken`); parallel takes all segments."""
    host = benchmark_steps.batches(cfg, cfg.batch_size)(np.arange(cfg.batch_size))
    size = host.tokens.shape[1] if schedule == "parallel" else 0
    objective = dataclasses.replace(cfg.objective, schedule=schedule, segments_at_once=size)

    def placed(tree, *axes):
        where = NamedSharding(of, PartitionSpec(*axes))
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), tree
        )

    model, tx = cfg.model, optim.optimizer(cfg.optim)
    state = abstract_state(model, tx, cfg.batch_size, of)
    ops = placed(operators(model))
    step = make_train_step(model, tx, objective, sharding.shardings(state, of))
    lowered = step.lower(state, placed(host, "data"), ops)
    taken = benchmark_update.branches_taken(host, schedule, size)
    return lowered.compile(compiler_options=OPTIONS), taken


def steps(
    names: Sequence[str], schedules: Sequence[str], dtypes: Sequence[str], quick: bool = False
) -> dict[str, Any]:
    """A row for each preset, schedule that its model has, and dtype.

    Raises:
        ValueError: as `mesh`.
    """
    of, rows = mesh(), []
    for name in names:
        cfg = benchmark_steps.config(name, quick)
        for schedule in benchmark_steps.of_model(cfg, schedules):
            for dtype in dtypes:
                model = benchmark_steps.computing(cfg.model, dtype)
                typed = dataclasses.replace(cfg, model=model)
                begun = time.perf_counter()
                compiled, taken = program(typed, schedule, of)
                row = {"preset": name, "schedule": schedule, "dtype": dtype,
                       "batch": cfg.batch_size, "compile": time.perf_counter() - begun}  # fmt: skip
                rows.append(row | summary(compiled.as_text(), taken))
                size = compiled.memory_analysis().temp_size_in_bytes
                rows[-1]["temporaries_mib"] = size / 2**20
    return {"device": "H100 SXM (data sheet)", "rates": RATES, "launch": LAUNCH, "rows": rows}


def summary(text: str, taken: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Of a program's kernels: their number, sizes, and times at RATES and LAUNCH."""
    found = list(kernels(text, taken))
    by_kind: dict[str, float] = {}
    for kernel in found:
        for kind, number in kernel.operations.items():
            by_kind[kind] = by_kind.get(kind, 0) + kernel.times * number
    seconds = [(kernel.times, kernel.seconds(RATES)) for kernel in found]
    return {
        "kernels": sum(times for times, _ in seconds),
        "short": sum(times for times, each in seconds if each < LAUNCH),
        "operations": by_kind,
        "bytes": sum(kernel.times * kernel.moved for kernel in found),
        "floor": sum(times * each for times, each in seconds),
        "estimate": sum(times * max(LAUNCH, each) for times, each in seconds),
    }  # fmt: skip
