"""What every test runs under: 8 pretended CPU devices, checked shapes, quick compilation."""

import gc
import os
from pathlib import Path

# JAX reads these once, when it is imported. Compiling is nearly all of the suite's time and each
# program runs a few times only: hence no optimisation, and no MLIR on the way, which alone takes a
# quarter of it. Flags that are set outside come last: win.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false "
    + os.environ.get("XLA_FLAGS", "")
)
os.environ["JAX_PLATFORMS"] = "cpu"
# Threads that run the 8 devices. A program that waits for two reductions at once needs two threads
# a device: with one each, as on a machine of few cores, some wait in one and some in the other.
os.environ.setdefault("NPROC", "32")
os.environ["MPLBACKEND"] = "Agg"

import hypothesis
import jax
import jaxtyping
import pytest

from tests import skips

# Tracing makes many small objects that stay: looking through them for garbage took 7 % of the time.
gc.set_threshold(200_000, 50, 100)

# Shapes in signatures are checked in tests only; nothing of the library is imported before this.
# Not in `fields` and `require`: they have none, and each config calls them 200 times.
_PARTS = {file.stem for file in (Path(__file__).parents[1] / "inf_former_jax").iterdir()}
_CHECKED = [f"inf_former_jax.{name}" for name in sorted(_PARTS - {"fields", "require"})]
jaxtyping.install_import_hook(_CHECKED, "beartype.beartype")

# No test asserts how long something takes: a busy machine must not fail one.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# A shape that fits by luck is an error: leading axes are written out.
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_addoption(parser):
    parser.addoption("--no-needless-skips", action="store_true", help="these fail the session")


def _skipped(config) -> list[tuple[str, str]]:
    """(test, reason) of each skipped test."""
    reports = config.pluginmanager.get_plugin("terminalreporter").stats.get("skipped", [])
    return [(one.nodeid, one.longrepr[2].removeprefix("Skipped: ")) for one in reports]


def pytest_terminal_summary(terminalreporter, config):
    for test, reason in _skipped(config):
        if not skips.expected(reason):
            terminalreporter.line(f"{test}: skipped without need", red=True)


def pytest_sessionfinish(session):
    """Only where all tests are reported, which is not in a worker."""
    config = session.config
    if hasattr(config, "workerinput") or not config.getoption("no_needless_skips"):
        return
    if session.exitstatus == 0 and not all(skips.expected(why) for _, why in _skipped(config)):
        session.exitstatus = 1


def pytest_configure(config):
    """Keep compiled programs in pytest's own cache folder; `-p no:cacheprovider` does without."""
    if hasattr(config, "cache"):
        jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


#: Files that take longest, in this order.
_LONGEST = (
    "models/test_all_segments.py",
    "models/test_golden.py",
    "generate/test_generation.py",
    "training/test_step.py",
    "models/test_remat.py",
    "experiments/test_lowering.py",
    "training/test_memory_gradient.py",
    "faults/test_processes.py",
    "docs/test_pages.py",
    "test_notebooks.py",
    "benchmark/test_steps.py",
)


def pytest_collection_modifyitems(items):
    """Long files begin first: begun last, one would be run on one core while the others wait."""
    rank = {name: number for number, name in enumerate(_LONGEST)}
    order = {
        item.path: min((rank[name] for name in rank if str(item.path).endswith(name)), default=99)
        for item in items
    }
    items.sort(key=lambda item: order[item.path])


@pytest.fixture(scope="module", autouse=True)
def _programs_of_one_file():
    """Forget a file's compiled programs: each keeps memory maps, of which a process has 65,530.

    Those of all files together came to 45,000 in one worker, and another one died.
    """
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def tiny_model():
    """An ∞-former of 2 layers; its 4 heads and 12 tokens are divisible by 2 and by 4 devices.

    The basis functions are wide, so that the 8 tokens of a write leave a trace in 8 of them.
    """
    from inf_former_jax.memory.long_term import LongTermConfig
    from inf_former_jax.models.decoder import ModelConfig

    return ModelConfig(
        vocab_size=12, num_layers=2, num_heads=4, head_dim=2, d_model=8, d_inner=8,
        segment_len=8, mem_len=8, dropout=0.0,
        long_term=LongTermConfig(num_basis=8, widths=(0.1, 0.3), num_samples=8, bins=8),
    )  # fmt: skip
