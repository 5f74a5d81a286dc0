"""Workers answer, say in a line why they cannot, and end; first steps are medians."""

import io
from pathlib import Path

import pytest

from experiments.benchmark import processes, worker
from experiments.benchmark.processes import Worker, first_steps, working
from experiments.benchmark.timing import BenchmarkConfig


@pytest.mark.slow
def test_a_worker_trains(capsys):
    """Two rows of two segments of 32 tokens, too few for two devices, then 2 updates and 1."""
    worker.main("vanilla", "sequential", "1", io.StringIO("2\n1\n"))
    ready, *seconds = capsys.readouterr().out.splitlines()
    assert ready == "ready 128 1"
    assert len(seconds) == 2 and all(0 < float(answer) < 60 for answer in seconds)


def test_the_newest_name_that_a_checkout_has():
    assert worker.first_of("json.nothing", "json") is __import__("json")
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        worker.first_of("json.nothing", "nowhere")


SCRIPT = """
import sys
if sys.argv[1] == "silent":
    sys.exit(3)
if sys.argv[1] == "wrong":
    print("error KeyError: 'wrong'", flush=True)
    sys.exit()
print("ready 640 2", flush=True)
for line in sys.stdin:
    print(float(line) / 10, flush=True)
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    """A worker that needs no JAX."""
    (tmp_path / "script.py").write_text(SCRIPT)
    monkeypatch.setattr(processes.worker, "__file__", str(tmp_path / "script.py"))


def test_a_worker_answers_until_it_is_closed(script, tmp_path):
    with working(tmp_path, "small", "sequential", "0") as one:
        assert (one.tokens, one.devices) == (640, 2)
        assert [one.run(5), one.run(20)] == [0.5, 2.0]
        assert one.seconds > 0
    assert one.process.returncode == -9


@pytest.mark.parametrize(
    ("preset", "found"), [("wrong", "KeyError: 'wrong'"), ("silent", "exit status 3")]
)
def test_a_worker_that_does_not_train_says_why(script, tmp_path, preset, found):
    message = f"^{tmp_path}: {preset} parallel: found {found}, accepted: a training step$"
    with pytest.raises(ValueError, match=message):
        Worker(tmp_path, preset, "parallel", "0")


def test_first_steps_are_medians_of_three(monkeypatch):
    """The second process of each pair has the cache that the first one filled."""
    seconds, caches = iter([9.0, 3.0, 7.0, 1.0, 8.0, 2.0]), []

    class Stub:
        def __init__(self, root: Path, *arguments: str, **environment: str):
            assert arguments == ("small", "sequential", "0")
            cache = Path(environment["JAX_COMPILATION_CACHE_DIR"])
            caches.append((cache, [*cache.iterdir()]))
            (cache / "program").touch()
            self.seconds = next(seconds)

        def close(self):
            pass

    monkeypatch.setattr(processes, "Worker", Stub)
    found = first_steps("small", BenchmarkConfig())
    assert found == {"first_step": 8.0, "first_step_cached": 2.0}
    assert [len(held) for _, held in caches] == [0, 1] * 3
    assert len({cache for cache, _ in caches}) == 3
