"""What is put into a run's process."""

import datetime
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.faults import injected
from inf_former_jax.training.state import TrainState


def test_nan_takes_the_place_of_every_number_that_is_not_whole():
    tree = {"a": jnp.ones(3), "b": jnp.arange(2), "key": jax.random.key(0)}
    found = injected.poisoned(tree)
    assert np.isnan(found["a"]).all() and found["b"].tolist() == [0, 1]
    assert found["key"] == tree["key"]


@pytest.mark.parametrize("kind", ["parameters", "memory", "write", "reader"])
def test_nan_comes_at_one_update(kind):
    def whole(state, batch, operators):
        return [kind for kind, leaf in zip(places, (*state[1:4:2], operators), strict=True)
                if jnp.isnan(leaf).any()]  # fmt: skip

    places, one = ("parameters", "memory", "write"), jnp.ones(2)
    whole.lower = None
    step = injected.Step(kind, 5, whole)
    for update in (4, 5, 6):
        state = TrainState(jnp.array(update), one, one, one, None)
        wanted = [kind] if update == 5 and kind in places else []
        assert step(state, None, one) == wanted


def test_the_clock_of_a_process_jumps():
    """In a process of its own: the clocks of this one stay."""
    program = """if True:
        import time, datetime
        from experiments.faults.injected import Clock
        clock, before, steady = Clock(), time.time(), time.monotonic()
        clock.put_in_place()
        clock.shift = 3600.0
        now = datetime.datetime.now(datetime.timezone.utc).timestamp()
        for found in (time.time(), time.time_ns() / 1e9, now):
            assert 3600 <= found - before < 3700, found
        assert time.monotonic() - steady < 100
    """
    subprocess.run([sys.executable, "-c", program], check=True, timeout=200)
    assert datetime.datetime.now().year < 2100


@pytest.mark.parametrize("argv", [[], ["nothing", "3"], ["data"], ["data", "soon"]])
def test_what_cannot_be_put_in_is_refused(argv, capsys):
    with pytest.raises(SystemExit) as stopped:
        injected.main(argv)
    assert stopped.value.code == 2
    assert ": found " in capsys.readouterr().err
