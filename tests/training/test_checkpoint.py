"""Checkpoints: restored to the bit, verified, walked past when damaged."""

import gc
import itertools
import json
import logging
import shutil
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from inf_former_jax.training.checkpoint import (
    CheckpointConfig,
    CheckpointError,
    Checkpoints,
    digest,
)
from inf_former_jax.training.digests import LIST
from inf_former_jax.training.state import TrainState
from tests.damage import WAYS, damaged


def state(value=1.0, width=3):
    """A tree with all kinds of leaves that a train state has; w does not compress."""
    w = value + jax.random.normal(jax.random.key(1), (400, width))
    return {
        "params": {"w": w, "b": jnp.arange(5.0, dtype=jnp.bfloat16)},
        "step": jnp.array(7, jnp.int32),
        "key": jax.random.key(3),
        "mask": jnp.array([True, False]),
        "absent": None,
    }


def bits(tree):
    """Leaves as NumPy arrays, keys as their data."""

    def of_leaf(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    return [of_leaf(leaf) for leaf in jax.tree.leaves(tree)]


def target(tree):
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree
    )


def assert_equal_bits(actual, expected):
    for a, b in zip(bits(actual), bits(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def saved(folder, values, best=None, **config):
    """Steps 1, 2, … with a state of each value; accuracy = value."""
    with Checkpoints(folder, CheckpointConfig(**config), best) as checkpoints:
        for step, value in enumerate(values, start=1):
            checkpoints.save(step, state(value), {"accuracy": value})
    return folder


def restore(folder, like=None):
    with Checkpoints(folder, CheckpointConfig()) as checkpoints:
        return checkpoints.restore(target(state() if like is None else like))


def test_the_newest_state_comes_back_to_the_bit(tmp_path):
    """Dtypes, key and None included."""
    assert_equal_bits(restore(saved(tmp_path, [1.0, 2.5])), state(2.5))


def test_an_empty_folder_has_nothing(tmp_path):
    assert restore(tmp_path) is None


def test_a_state_may_be_donated_at_once(tmp_path):
    """Asynchronous: a step overwrites the buffers while they are being written."""
    step = jax.jit(lambda s: s | {"big": s["big"] * 0 - 1}, donate_argnums=0)
    given = {"big": jnp.arange(2_000_000, dtype=jnp.float32)}
    with Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
        checkpoints.save(1, given)
        overwritten = step(given)
        checkpoints.wait()
        assert float(overwritten["big"][5]) == -1
        restored = checkpoints.restore(target(overwritten))
    np.testing.assert_array_equal(restored["big"], np.arange(2_000_000, dtype=np.float32))


def test_a_clock_that_is_set_does_not_end_a_save(tmp_path, monkeypatch):
    """It jumps by 400 days whenever orbax looks at it."""
    days = itertools.count(0, 400)
    clock = types.SimpleNamespace(time=lambda: 24 * 3600.0 * next(days))
    monkeypatch.setattr("orbax.checkpoint._src.futures.future.time", clock)
    assert_equal_bits(restore(saved(tmp_path, [1.0, 2.0])), state(2.0))
    assert next(days) > 400


def test_newest_and_best_are_kept(tmp_path):
    saved(tmp_path, [0.1, 0.9, 0.3, 0.2, 0.4], best=lambda m: m["accuracy"], keep=2)
    with Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
        assert checkpoints.steps() == [2, 4, 5]


def test_the_best_of_before_a_stop_is_kept(tmp_path):
    """Also where the run that goes on finds none that is better."""
    best = lambda m: m["accuracy"]  # noqa: E731
    saved(tmp_path, [0.1, 0.9], best, keep=1)
    with Checkpoints(tmp_path, CheckpointConfig(keep=1), best) as checkpoints:
        for step, accuracy in ((3, 0.5), (4, 0.4), (5, 0.3)):
            checkpoints.save(step, state(), {"accuracy": accuracy})
        checkpoints.wait()
        assert checkpoints.steps() == [2, 5]


def test_a_step_says_what_it_is_of_and_another_run_is_refused(tmp_path):
    """Not walked past: the one before it is no better. Words that are damaged are damage."""

    def accept(folder, found):
        assert found["metrics"] == {}
        if found["of"] == "theirs":
            raise ValueError(f"{folder.name}: found {found['of']}")

    for step, of in ((1, "ours"), (2, "theirs")):
        with Checkpoints(tmp_path, CheckpointConfig(), about={"of": of}) as checkpoints:
            checkpoints.save(step, state(step))
    with Checkpoints(tmp_path, CheckpointConfig(), read_only=True) as checkpoints:
        with pytest.raises(CheckpointError, match=r"^2: found theirs$"):
            checkpoints.restore(target(state()), accept=accept)
        assert_equal_bits(checkpoints.restore(target(state())), state(2.0))
        for how in ("cut", "object", 20):
            with damaged(tmp_path / "2" / "about" / "metadata", how):
                found = checkpoints.restore(target(state()), accept=accept)
                assert_equal_bits(found, state(1.0))


def damage(folder, step, how):
    """Flip a byte of, or cut, the largest file of a step."""
    files = [path for path in (folder / str(step)).rglob("*") if path.is_file()]
    path = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    if how == "flip":
        content[len(content) // 2] ^= 0xFF
    path.write_bytes(content[: len(content) // 2] if how == "cut" else content)


# orbax abandons the coroutine that reads a file cut short.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("how", ["flip", pytest.param("cut", marks=pytest.mark.slow)])
def test_damage_is_named_and_the_one_before_is_taken(tmp_path, caplog, how):
    folder = saved(tmp_path, [1.0, 2.0])
    damage(folder, 2, how)
    with caplog.at_level(logging.WARNING):
        restored = restore(folder)
    gc.collect()  # the abandoned coroutine must be gone before another test is blamed for it
    assert_equal_bits(restored, state(1.0))
    assert "checkpoint of step 2 is damaged" in caplog.text


def test_a_damaged_step_is_set_aside_and_saved_again(tmp_path):
    """Twice; reading alone renames nothing."""
    folder = saved(tmp_path, [1.0, 2.0])
    for kept in (["damaged-2"], ["damaged-2", "damaged-2+"]):
        damage(folder, 2, "flip")
        with Checkpoints(folder, CheckpointConfig(), read_only=True) as checkpoints:
            assert_equal_bits(checkpoints.restore(target(state())), state(1.0))
            assert checkpoints.steps() == [1, 2]
        with Checkpoints(folder, CheckpointConfig()) as checkpoints:
            assert_equal_bits(checkpoints.restore(target(state())), state(1.0))
            assert checkpoints.steps() == [1]
            checkpoints.save(2, state(3.0))
        assert sorted(path.name for path in folder.glob("damaged-*")) == kept
        assert_equal_bits(restore(folder), state(3.0))


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """A folder with two whole checkpoints, which have a figure each."""
    return saved(tmp_path_factory.mktemp("steps"), [1.0, 2.0], best=lambda m: m["accuracy"])


def read(folder):
    with Checkpoints(folder, CheckpointConfig(), read_only=True) as checkpoints:
        return checkpoints.restore(target(state()))


def test_reading_warns_of_nothing(two_steps, caplog):
    """orbax would say that the folder is read only."""
    with caplog.at_level(logging.WARNING), caplog.at_level(logging.WARNING, logger="absl"):
        assert_equal_bits(read(two_steps), state(2.0))
    assert caplog.text == ""


def test_any_flipped_byte_of_the_digest_is_damage(two_steps):
    """It is never another architecture, and never accepted."""
    path = two_steps / "2" / "digest" / "metadata"
    for byte in range(0, path.stat().st_size, 5):
        with damaged(path, byte):
            assert_equal_bits(read(two_steps), state(1.0))


def as_version_0_2(folder, content):
    """Make a step's folder what that version wrote: an array a leaf, and no checksum or list."""
    path = folder / "digest" / "metadata"
    path.write_text(json.dumps(json.loads(path.read_text())["leaves"]))
    (folder / LIST).unlink()
    for name in ("about", "packed"):
        shutil.rmtree(folder / name)
    with ocp.StandardCheckpointer() as writer:
        writer.save(folder / "state", content)


def test_a_checkpoint_of_version_0_2_is_restored(tmp_path):
    """Whole, and one field of it."""
    given = TrainState(jnp.array(2, jnp.int32), state(), (), None, jax.random.key(1))
    with Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
        checkpoints.save(1, given)
    as_version_0_2(tmp_path / "1", given)
    with Checkpoints(tmp_path, CheckpointConfig(), read_only=True) as checkpoints:
        assert_equal_bits(checkpoints.restore(target(given)), given)
        found = checkpoints.restore(target(given), ("params",))
    assert_equal_bits(found, given._replace(step=None, key=None))


# orbax abandons the coroutines that read a file that is damaged.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
@pytest.mark.parametrize("how", [*WAYS, 50, 113])
def test_whatever_is_damaged_a_whole_state_is_found_or_the_folder_refused(two_steps, how):
    """Every file of the newest checkpoint: to the bit one of the two states, or one error."""
    paths = [path for path in sorted((two_steps / "2").rglob("*")) if path.is_file()]
    for path in paths:
        with damaged(path, how):
            try:
                found = read(two_steps)
            except CheckpointError as error:
                assert path.name == "_CHECKPOINT_METADATA", path
                assert "cannot be read" in str(error)
                continue
            of = 2.0 if float(found["params"]["w"].mean()) > 1.5 else 1.0
            assert_equal_bits(found, state(of))
    gc.collect()
    assert len(paths) > 10


@pytest.mark.parametrize("file", ["about/metadata", "_CHECKPOINT_METADATA"])
@pytest.mark.parametrize("how", ["empty", "null", "missing", "object", 290, 300, 310, 320])
def test_a_damaged_figure_does_not_stop_later_checkpoints(tmp_path, file, how):
    """It is the worst one there is."""
    saved(tmp_path, [1.0, 2.0], best=lambda m: m["accuracy"])
    with damaged(tmp_path / "2" / file, how):
        cfg, best = CheckpointConfig(keep=9), lambda m: m["accuracy"]
        with Checkpoints(tmp_path, cfg, best) as checkpoints:
            checkpoints.save(3, state(3.0), {"accuracy": 0.5})
            checkpoints.wait()
            assert checkpoints.steps() == [1, 2, 3]


def test_a_checkpoint_with_a_nan_is_walked_past(tmp_path, caplog):
    folder = saved(tmp_path, [1.0, float("nan"), float("inf")], keep=3)
    with caplog.at_level(logging.WARNING):
        assert_equal_bits(restore(folder), state(1.0))
    assert "step 2 is damaged (NaN or infinity in ['params']['w'])" in caplog.text
    folder = saved(tmp_path / "none", [float("nan")])
    with pytest.raises(
        CheckpointError, match=r": found .* \[1\]: none of them is whole and finite, acc"
    ):
        restore(folder)
    assert (folder / "1").exists()


def test_nothing_whole_is_an_error(tmp_path):
    folder = saved(tmp_path, [1.0, 2.0])
    for step in (1, 2):
        damage(folder, step, "flip")
    with pytest.raises(CheckpointError, match=r"checkpoints of steps \[1, 2\]: none of them"):
        restore(folder)


def test_another_architecture_is_refused_by_name(tmp_path):
    """Another shape, another dtype, one leaf more; never walked past, never cast."""
    folder = saved(tmp_path, [1.0])
    wider = state(width=4)
    narrower = state() | {"mask": jnp.array([1, 0], jnp.int32)}
    more = state() | {"extra": jnp.zeros(1)}
    for like, name in ((wider, "w"), (narrower, "mask"), (more, "extra")):
        with pytest.raises(CheckpointError, match=rf"another architecture: .*'{name}'.*found"):
            restore(folder, like)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32, jnp.uint8, jnp.bool_])
def test_digest_sees_every_single_change(dtype):
    """Any one element changed, and two elements exchanged, change the hash."""
    x = jnp.asarray([0, 1, 0, 1, 1, 0]).astype(dtype)

    def hash_of(x):
        return digest({"x": x})["['x']"][2]

    others = [x.at[i].set((1 - x[i].astype(jnp.int32)).astype(dtype)) for i in range(6)]
    others.append(x[jnp.array([1, 0, 2, 3, 4, 5])])
    assert len({hash_of(x), *map(hash_of, others)}) == 8


def test_digest_is_the_same_on_every_mesh():
    """Integer sums have no order."""
    x = jax.random.normal(jax.random.key(0), (8, 5))
    mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
    spread = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    assert digest({"x": spread}) == digest({"x": x})


def test_a_checkpoint_is_overdue_when_the_minutes_are_over(tmp_path, monkeypatch):
    """From the opening or the last save on; without minutes it never is."""
    now = [100.0]
    clock = types.SimpleNamespace(monotonic=lambda: now[0], perf_counter=time.perf_counter)
    monkeypatch.setattr("inf_former_jax.training.checkpoint.time", clock)
    for minutes, later in ((0.0, False), (2.0, True)):
        with Checkpoints(tmp_path, CheckpointConfig(minutes=minutes)) as checkpoints:
            now[0] += 119
            assert not checkpoints.overdue()
            now[0] += 2
            assert checkpoints.overdue() == later
            checkpoints.save(int(minutes), state())
            now[0] += 119
            assert not checkpoints.overdue()
            now[0] += 2
            assert checkpoints.overdue() == later


def test_negative_minutes_are_refused():
    with pytest.raises(ValueError, match=r"^minutes: found -1.0, accepted: a number ≥ 0$"):
        CheckpointConfig(minutes=-1.0)


@pytest.mark.parametrize("change", [{"every": 0}, {"keep": 0}])
def test_impossible_configurations_are_refused(change):
    name = next(iter(change))
    with pytest.raises(ValueError, match=f"^{name}: found 0, accepted: a whole number ≥ 1$"):
        CheckpointConfig(**change)


def test_what_tensorstore_says_of_arrays_that_were_given_up_is_dropped(tmp_path, monkeypatch):
    """Anything else is said as before, and all of it once the checkpoints are closed."""
    said = []
    monkeypatch.setattr(sys, "unraisablehook", lambda given: said.append(str(given.exc_value)))

    def tell():
        for words in ("Event loop is closed", "another"):
            sys.unraisablehook(types.SimpleNamespace(exc_value=RuntimeError(words)))

    with Checkpoints(tmp_path, CheckpointConfig()):
        tell()
    assert said == ["another"]
    tell()
    assert said[1:] == ["Event loop is closed", "another"]
