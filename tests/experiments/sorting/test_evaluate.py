"""A trained sorter on other lengths, from its run and from its parameters alone."""

import json
import shutil
from pathlib import Path

import pytest

from experiments import sorting
from experiments.run.folders import differences, to_json
from experiments.sorting.__main__ import main
from experiments.sorting.config import PRESETS
from experiments.weights import __main__ as weights
from tests.experiments.sorting.test_sorting import TINY


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    main([*TINY, "--out", str(folder)])
    return folder


@pytest.fixture(scope="module")
def alone(run, tmp_path_factory):
    """The parameters of the run."""
    folder = tmp_path_factory.mktemp("given") / "sorter"
    weights.main(["parameters", "--run", str(run), "--out", str(folder)])
    return folder


def evaluated(run, out, *options):
    main(["evaluate", "--run", str(run), "--out", str(out), *options])
    return json.loads((out / "evaluation.json").read_text())


def test_the_length_of_training_gives_the_result_of_the_run(run, alone, tmp_path):
    """The same sequences and controls, also without the checkpoints."""
    trained = json.loads((run / "result.json").read_text())
    for number, folder in enumerate((run, alone)):
        found = evaluated(folder, tmp_path / str(number), "--test-sequences", "12")
        assert found["baselines"] == trained["baselines"]
        assert found["preset"] == "infinity-former" and found["length"] == 50
        for label, row in trained["test"].items():
            assert found["test"][label] == pytest.approx(row, rel=1e-6), label


def test_another_length_is_another_task(alone, tmp_path, capsys):
    """More tokens, other baselines; a second command with other settings writes over nothing."""
    found = evaluated(alone, tmp_path, "--length", "98", "--test-sequences", "12")
    same = evaluated(alone, tmp_path / "same", "--test-sequences", "12")
    assert found["length"] == 98 and found["trained"]["length"] == 50
    assert found["baselines"] != same["baselines"]
    assert found["test"]["as trained"]["loss"] != same["test"]["as trained"]["loss"]
    with pytest.raises(SystemExit, match="2"):
        evaluated(alone, tmp_path, "--length", "99", "--test-sequences", "12")
    assert "of other settings" in capsys.readouterr().err


def test_the_same_command_twice_is_the_same(alone, tmp_path):
    """Also where no length is given."""
    first = evaluated(alone, tmp_path, "--test-sequences", "12")
    assert evaluated(alone, tmp_path, "--test-sequences", "12") == first


def test_a_run_on_a_mesh_is_tested_on_one_device(alone, tmp_path):
    folder = tmp_path / "sorter"
    shutil.copytree(alone, folder)
    config = json.loads((folder / "config.json").read_text())
    changed = config | {"mesh_model": 16, "devices": 64, "tensorboard": True}
    (folder / "config.json").write_text(json.dumps(changed))
    found = evaluated(folder, tmp_path / "out", "--test-sequences", "12")
    same = evaluated(alone, tmp_path / "same", "--test-sequences", "12")
    assert found["test"]["as trained"] == pytest.approx(same["test"]["as trained"], rel=1e-6)


def test_parameters_are_written_over_nothing(run, alone, capsys):
    with pytest.raises(SystemExit, match=r"2|4"):
        weights.main(["parameters", "--run", str(run), "--out", str(alone)])
    assert "new or empty" in capsys.readouterr().err


def test_the_card_says_what_it_is(run, alone):
    card = (alone / "README.md").read_text()
    result = json.loads((run / "result.json").read_text())
    assert result["command"] in card and f"{result['test']['as trained']['accuracy']:.3f}" in card
    names = {path.name for path in alone.iterdir()}
    assert names == {"README.md", "config.json", "parameters.safetensors", "result.json"}


@pytest.mark.parametrize(
    "spoil, told",
    [
        (lambda folder: (folder / "config.json").unlink(), "found no config.json"),
        (lambda folder: (folder / "parameters.safetensors").write_bytes(b"no"), "safetensors"),
        (lambda folder: (folder / "parameters.safetensors").unlink(), "found no checkpoint"),
    ],
)
def test_what_is_no_sorter_is_refused(alone, spoil, told, tmp_path, capsys):
    folder = tmp_path / "sorter"
    shutil.copytree(alone, folder)
    spoil(folder)
    with pytest.raises(SystemExit, match="2"):
        evaluated(folder, tmp_path / "out")
    error = capsys.readouterr().err
    assert error.startswith("error: ") and told in error and error.count("\n") == 1


def test_a_run_that_has_not_ended_is_not_given_away(run, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / "result.json").unlink()
    with pytest.raises(SystemExit, match="2"):
        weights.main(["parameters", "--run", str(folder), "--out", str(tmp_path / "out")])
    assert "no result.json" in capsys.readouterr().err


def test_the_sorter_that_comes_with_the_project_is_of_the_best_preset():
    """So that the preset's command trains it anew."""
    fields = json.loads((Path(sorting.__file__).parent / "trained" / "config.json").read_text())
    _, preset = PRESETS["infinity-former-best"]
    assert differences(to_json(preset), fields) == ["devices: 0 → 1"]


@pytest.mark.slow
def test_the_sorter_that_comes_with_the_project_sorts(tmp_path):
    """Of 4,012 tokens nine tenths of the answers nearly, and with its memory emptied few."""
    main(["evaluate", "--test-sequences", "8", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert found["length"] == 4012
    assert found["test"]["as trained"]["accuracy"] > 0.8
    assert found["test"]["memory emptied before every segment"]["accuracy"] < 0.3
