"""A folder of checkpoints: what is whole, and which file of what is not is damaged."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inf_former_jax.training import saved_steps
from inf_former_jax.training.checkpoint import UNFINISHED, CheckpointConfig, Checkpoints, about
from inf_former_jax.training.digests import LIST, differing_leaves, digest
from tests.damage import damaged
from tests.training.test_checkpoint import (
    as_version_0_2,
    assert_equal_bits,
    damage,
    restore,
    saved,
    state,
)


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """A folder with two whole checkpoints, which have a figure each."""
    return saved(tmp_path_factory.mktemp("steps"), [1.0, 2.0], best=lambda m: m["accuracy"])


def health(folder):
    return {step.folder.name: step.health for step in saved_steps.look(folder)}


def test_what_was_saved_is_verified(two_steps):
    first, second = saved_steps.look(two_steps)
    assert [first.step, second.step] == [1, 2]
    assert first.health == second.health == "verified" and not first.wrong
    files = [path.stat().st_size for path in (two_steps / "2").rglob("*") if path.is_file()]
    assert second.size == sum(files)
    assert first.saved and second.saved and first.saved <= second.saved <= first.saved + 600
    assert second.about == about(two_steps / "2") == {"metrics": {"accuracy": 2.0}}


#: orbax writes these after the list of files, and restores a checkpoint without.
UNLISTED = "commit_success.txt"


@pytest.mark.parametrize("how", [3, "cut", "missing"])
def test_the_damaged_file_is_named(two_steps, how):
    """A flipped byte, a file cut short, and one that was deleted: every file, one at a time."""
    paths = [path for path in sorted((two_steps / "2").rglob("*")) if path.is_file()]
    paths = [path for path in paths if path.name != UNLISTED]
    for path in paths:
        if path.name == "_CHECKPOINT_METADATA" and how == 3:
            continue  # orbax writes it after the list, and not every byte of it means something
        with damaged(path, how):
            first, second = saved_steps.look(two_steps)
        assert first.health == "verified" and second.health == "damaged"
        (wrong,) = second.wrong
        assert wrong.startswith(f"{path.relative_to(two_steps / '2').as_posix()}: "), wrong
    assert len(paths) > 10 and health(two_steps) == {"1": "verified", "2": "verified"}


def test_every_damaged_file_is_named(two_steps):
    arrays = two_steps / "2" / "packed"
    one, other = arrays / "_METADATA", arrays / "_sharding"
    with damaged(one, "cut"), damaged(other, 3):
        wrong = saved_steps.look(two_steps)[1].wrong
    assert wrong == [
        f"packed/_METADATA: {one.stat().st_size // 2:,} bytes, {one.stat().st_size:,} were written",
        "packed/_sharding: other bytes than were written",
    ]


def test_what_was_not_finished_and_what_was_set_aside_is_told(two_steps, tmp_path):
    shutil.copytree(two_steps, tmp_path, dirs_exist_ok=True)
    shutil.copytree(tmp_path / "2", tmp_path / f"3{UNFINISHED}-5")
    shutil.copytree(tmp_path / "2", tmp_path / "damaged-2+")
    (tmp_path / "notes").mkdir()
    told = {f"3{UNFINISHED}-5": "unfinished", "damaged-2+": "set aside"}
    assert health(tmp_path) == {"1": "verified", "2": "verified", **told}
    assert [step.step for step in saved_steps.look(tmp_path)] == [1, 2, 2, 3]


def test_a_nan_is_damage_though_its_files_are_whole(tmp_path):
    """As it is for a run that goes on."""
    (step,) = saved_steps.look(saved(tmp_path, [float("nan")]))
    assert step.wrong == ["NaN or infinity in ['params']['w']"]


def test_a_step_of_version_0_2_is_verified_by_its_arrays(two_steps, tmp_path):
    """It has no list of files, and an array for each leaf."""
    shutil.copytree(two_steps, tmp_path, dirs_exist_ok=True)
    for step in (1, 2):
        as_version_0_2(tmp_path / str(step), state(float(step)))
    assert health(tmp_path) == {"1": "verified", "2": "verified"}
    shutil.copytree(tmp_path / "1" / "state", tmp_path / "2" / "state", dirs_exist_ok=True)
    (step,) = saved_steps.look(tmp_path)[1:]
    assert step.wrong == ["checksum of ['params']['w']"]
    shutil.rmtree(tmp_path / "2" / "state")
    assert health(tmp_path) == {"1": "verified", "2": "damaged"}


def test_a_file_that_orbax_misses_is_damage(two_steps, monkeypatch):
    """The step is listed, and not taken for one that was removed meanwhile."""

    def fails(*arguments, **more):
        raise FileNotFoundError("d/0")

    monkeypatch.setattr("orbax.checkpoint.PyTreeCheckpointer.restore", fails)
    assert health(two_steps) == {"1": "damaged", "2": "damaged"}


def test_removed_steps_are_gone_and_no_other(two_steps, tmp_path):
    shutil.copytree(two_steps, tmp_path, dirs_exist_ok=True)
    shutil.copytree(tmp_path / "2", tmp_path / f"3{UNFINISHED}")
    damage(tmp_path, 2, "flip")
    steps = saved_steps.look(tmp_path)
    saved_steps.remove([step for step in steps if step.health != "verified"])
    assert health(tmp_path) == {"1": "verified"}
    assert_equal_bits(restore(tmp_path), state(1.0))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32, jnp.uint8, jnp.bool_])
@pytest.mark.parametrize("size", [0, 5, 300_000])
def test_host_and_device_form_the_same_digest(dtype, size):
    """Also where an array is looked at in parts; and a change in the last part is seen."""
    x = jax.random.randint(jax.random.key(0), (size,), 0, 250).astype(dtype)
    assert differing_leaves({"x": np.asarray(x)}, digest({"x": x})) == []
    if size:
        changed = x.at[-1].set(jnp.asarray(1 - x[-1].astype(jnp.int32)).astype(dtype))
        wrong = differing_leaves({"x": np.asarray(changed)}, digest({"x": x}))
        assert wrong == ["checksum of ['x']"]


@pytest.mark.parametrize("error", [MemoryError("cannot allocate"), OSError(24, "too many files")])
def test_what_this_machine_cannot_do_is_no_damage(two_steps, monkeypatch, error):
    """Nothing is called damaged, and so nothing is removed, for want of memory or of files."""

    def fails(*arguments, **more):
        raise error

    monkeypatch.setattr("orbax.checkpoint.PyTreeCheckpointer.restore", fails)
    with pytest.raises(type(error)):
        saved_steps.look(two_steps)


def test_a_file_that_may_not_be_read_is_no_damage(two_steps, monkeypatch):
    """Whoever may read all files sees no refusal by the system, so that it is pretended."""
    monkeypatch.setattr("os.access", lambda path, how: path.name != "files.json")
    with pytest.raises(PermissionError, match=r"files\.json"):
        saved_steps.look(two_steps)


def test_names_of_leaves_are_compared():
    tree = {"key": jax.random.key(3), "x": jnp.ones((2, 3))}
    data = np.asarray(jax.random.key_data(tree["key"]))
    saved = digest(tree)
    assert differing_leaves({"key": data, "x": np.ones((2, 3), np.float32)}, saved) == []
    assert differing_leaves({"key": data}, saved) == ["no ['x']"]
    turned = {"key": data, "x": np.ones((3, 2), np.float32)}
    assert differing_leaves(turned, saved) == ["checksum of ['x']"]


def test_files_are_listed_before_a_save_is_finished(tmp_path, monkeypatch):
    """A step that is there has its list; a save that fails to write it is no step."""

    def full(folder):
        raise OSError("no space")

    with Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
        checkpoints.save(1, state())
        checkpoints.wait()
        assert (tmp_path / "1" / LIST).exists()
        monkeypatch.setattr("inf_former_jax.training.checkpoint.write_list", full)
        with pytest.raises(OSError, match="no space"):
            checkpoints.save(2, state())
            checkpoints.wait()
    assert health(tmp_path) == {"1": "verified", f"2{UNFINISHED}": "unfinished"}
