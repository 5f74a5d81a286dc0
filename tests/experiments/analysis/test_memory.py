"""What a trained model does with its memory, on a run of a few updates."""

import json

import jax
import numpy as np
import pytest

from experiments.analysis import memory as memory_analysis
from experiments.run import training
from experiments.sorting import __main__ as sorting_main
from experiments.sorting import data as sorting
from experiments.sorting.config import SortingConfig
from inf_former_jax.memory import state
from inf_former_jax.memory.density import GaussianDensity
from inf_former_jax.memory.long_term import LongTermConfig
from inf_former_jax.models.decoder import operators

pytestmark = pytest.mark.slow  # whole runs

SMALL = {
    "length": 76,
    "batch-size": 8,
    "test-sequences": 8,
    "valid-sequences": 8,
    "model.segment-len": 24,
    "model.mem-len": 24,
    "model.num-layers": 1,
    "model.num-heads": 2,
    "model.head-dim": 4,
    "model.d-model": 8,
    "model.d-inner": 8,
    "optim.steps": 2,
    "optim.warmup-steps": 1,
    "loop.log-every": 2,
    "loop.eval-every": 2,
}
MEMORY = {f"model.long-term.{name}": 8 for name in ("num-basis", "num-samples", "bins")}


def train(preset, options, folder):
    given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    sorting_main.main([preset, *given, "--out", str(folder)])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """4 segments of 24, so 2 writes, after 2 updates."""
    folder = tmp_path_factory.mktemp("run") / "it"
    train("infinity-former", SMALL | MEMORY, folder)
    return folder


def test_densities_by_age_are_those_of_the_decoder(run, tmp_path, capsys):
    """Means and widths of the last segment's answers, as the decoder's own output has them."""
    memory_analysis.main(["--run", str(run), "--sequences", "3", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "memory.json").read_text())
    assert found["writes"] == 2 and (tmp_path / "memory.png").stat().st_size > 5000
    cfg, decoder, params, _ = training.load(SortingConfig, run)
    batch = sorting.run_batch(cfg, "test", np.arange(3))
    memory, step = state.init(cfg.model, 3), jax.jit(decoder.apply)
    for w in range(4):
        out = step({"params": params}, batch.tokens[:, w], memory, operators=operators(cfg.model))
        memory = out.memory
    answers = batch.weights[0, -1] > 0
    assert answers.sum() == 20
    for h, head in enumerate(found["layers"][0]["heads"]):
        density = [np.asarray(field)[:, h][:, answers] for field in out.info[0]["density"]]
        np.testing.assert_allclose(head["mean"], density[0].mean(), rtol=1e-5)
        np.testing.assert_allclose(head["scale"], np.median(np.sqrt(density[1])), rtol=1e-5)
        np.testing.assert_allclose(sum(head["mass_by_age"]), 1, atol=1e-4)
        assert len(head["mass_by_age"]) == 2
    assert 0 < found["layers"][0]["gate"]["mean"] < 1
    assert found["layers"][0]["context_to_local"] > 0
    assert "newest" in capsys.readouterr().out


def test_mass_by_age_follows_the_contraction():
    """A head on the newest quarter of the time sees the newest segment of τ = .75 only."""
    narrow = GaussianDensity(np.full((1, 1, 4), 0.9, np.float32), np.full((1, 1, 4), 1e-4))
    (head,) = memory_analysis._heads(LongTermConfig(), narrow, writes=3)
    np.testing.assert_allclose(head["mass_by_age"], [1, 0, 0], atol=1e-3)
    old = GaussianDensity(np.full((1, 1, 4), 0.2, np.float32), np.full((1, 1, 4), 1e-4))
    (head,) = memory_analysis._heads(LongTermConfig(contraction="power"), old, writes=3)
    np.testing.assert_allclose(head["mass_by_age"], [0, 0, 1], atol=1e-3)


def test_what_cannot_be_looked_at_is_refused(run, tmp_path, capsys):
    """One line, exit 2: no run given, not a run, no sequences, no long-term memory."""
    plain = tmp_path / "plain"
    train("vanilla", SMALL | {"model.mem-len": 0}, plain)
    capsys.readouterr()
    for given, said in [
        ([], "run: found none, accepted: the folder of a run"),
        (["--run", str(tmp_path)], "found no config.json"),
        (["--run", str(run), "--sequences", "0"], "sequences: found 0"),
        (["--run", str(plain)], "without a long-term memory"),
    ]:
        with pytest.raises(SystemExit) as stopped:
            memory_analysis.main(given)
        printed = capsys.readouterr().err
        assert stopped.value.code == 2 and said in printed and printed.count("\n") == 1
