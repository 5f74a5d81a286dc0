"""What a trained model does with its memory, on a run of a few updates."""

import json

import jax
import numpy as np
import pytest

from experiments.analysis import asked
from experiments.analysis import memory as memory_analysis
from experiments.analysis.asked import Questions
from experiments.recall import __main__ as recall_main
from experiments.recall import data as recall
from experiments.recall.config import RecallConfig
from experiments.run import training
from experiments.sorting import __main__ as sorting_main
from experiments.sorting import data as sorting
from experiments.sorting.config import SortingConfig
from inf_former_jax.memory import state
from inf_former_jax.memory.coverage import segment_edges
from inf_former_jax.memory.density import GaussianDensity, GibbsDensity, MixedDensity
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


def train(preset, options, folder, main=sorting_main.main):
    given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    main([preset, *given, "--out", str(folder)])


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


def on_cells(chosen, cells):
    """Gibbs densities of one head, each on one of R cells."""
    keys = 50 * np.eye(cells, dtype=np.float32)
    queries = np.eye(cells, dtype=np.float32)[np.asarray(chosen)]
    shape = (len(queries), 1, cells, cells)
    return GibbsDensity(queries[:, None], np.broadcast_to(keys, shape), np.zeros(shape[:3], "f4"))


# Ages 2, 3 and 4 are written, each on two of the six cells; age 1 is still in the window.
QUESTIONS = Questions(np.array([[2, 4], [4, 1]]), range(2, 5))
LASTING = LongTermConfig(contraction="power")


def test_mass_by_asked_age_of_known_cells():
    """Ages 4 and 4 read the oldest cell and the newest, age 2 the newest, age 1 the middle."""
    mass = asked.mass_by_asked_age(LASTING, on_cells([[5, 0], [4, 2]], 6), QUESTIONS)
    np.testing.assert_allclose(mass, [[0, 1, 0], [1, 0, 0], [0.5, 0, 0.5]], atol=1e-6)
    assert QUESTIONS.figures() == {
        "asked_ages": [1, 2, 4],
        "questions_by_age": [1, 1, 2],
        "written_ages": [2, 3, 4],
    }
    # Age 1 is not written and does not count: (1 + 2 · ½) / 3.
    assert asked.mass_on_asked(mass, QUESTIONS) == pytest.approx(2 / 3)
    window = Questions(np.array([[1, 1]]), range(2, 5))
    assert asked.mass_on_asked(np.full((1, 3), 1 / 3), window) is None


def test_mass_by_asked_age_of_both_kinds_of_heads():
    """The mean over all questions is the mass of all; what lies outside of [0, 1] is missing."""
    mean, var = np.full((2, 1, 2), 0.9, np.float32), np.full((2, 1, 2), 0.09, np.float32)
    kinds = on_cells([[5, 0], [4, 2]], 6), GaussianDensity(mean, var)
    (_, counts), edges = QUESTIONS.asked, segment_edges(LASTING, 3)
    below = jax.jit(lambda density: density.below(edges))
    for head, density in enumerate(kinds):
        part = MixedDensity(*kinds).part(slice(head, head + 1))
        mass = asked.mass_by_asked_age(LASTING, part, QUESTIONS)
        whole = np.diff(below(density)).mean((0, 1, 2))[::-1]
        np.testing.assert_allclose(np.average(mass, axis=0, weights=counts), whole, atol=1e-6)
        assert mass.shape == (3, 3) and np.all(mass.sum(1) <= 1 + 1e-6)
    assert np.all(mass.sum(1) < 0.7)  # a Gaussian whose middle is beside the newest end


RECALL = {
    "task.num-keys": 4,
    "task.questions": 2,
    "task.segments": 5,
    "test-documents": 8,
    "valid-documents": 8,
    "model.segment-len": 8,
    "model.mem-len": 8,
} | {
    name: SMALL[name]
    for name in SMALL
    if name.split(".")[0] in ("batch-size", "optim", "loop")
    or name in ("model.num-layers", "model.num-heads", "model.head-dim", "model.d-model")
}
# Four writes in 64 cells: borders of segments and of cells are those of the 64 bins.
CONTENT = {"task.num-keys": 5, "task.segments": 6, "model.long-term.num-basis": 64}


def test_recall_is_looked_at_by_asked_age(tmp_path, capsys):
    """6 segments and a window of one: writes of age 2 to 5, and the matrix's mean by age."""
    train("infinity-former-content", RECALL | CONTENT, tmp_path / "run", recall_main.main)
    folder = tmp_path / "look"
    memory_analysis.main(["--run", str(tmp_path / "run"), "--sequences", "6", "--out", str(folder)])
    found = json.loads((folder / "memory.json").read_text())
    cfg, *_ = training.load(RecallConfig, tmp_path / "run", ("params",))
    ages = recall.generate(cfg.seed, "test", range(6), cfg.task, 8).ages
    asked_ages, counts = np.unique(ages[ages > 0], return_counts=True)
    assert found["asked_ages"] == asked_ages.tolist() and counts.sum() == 2 * 6
    assert found["questions_by_age"] == counts.tolist()
    assert found["writes"] == 4 and found["written_ages"] == [2, 3, 4, 5]
    for head in found["layers"][0]["heads"]:
        by_age = np.average(head["mass_by_asked_age"], axis=0, weights=counts)
        np.testing.assert_allclose(by_age, head["mass_by_age"], atol=1e-4)
        assert by_age.sum() == pytest.approx(1, abs=1e-4)
        assert 0 < head["mass_on_asked"] < 1
    assert (folder / "asked.png").stat().st_size > 5000
    assert "by the age that is asked" in capsys.readouterr().out


def test_a_sticky_memory_has_no_ages(tmp_path):
    """No matrix and no picture of it, and else the figures of any run."""
    train("infinity-former-sticky", RECALL | MEMORY, tmp_path / "run", recall_main.main)
    memory_analysis.main(["--run", str(tmp_path / "run"), "--sequences", "2"])
    found = json.loads((tmp_path / "run" / "memory.json").read_text())
    assert "asked_ages" not in found and not (tmp_path / "run" / "asked.png").exists()
    (head, _) = found["layers"][0]["heads"]
    assert head["mass_by_age"] == [] and "mass_by_asked_age" not in head
    assert sum(head["mass_by_time"]) == pytest.approx(1, abs=1e-4)


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
