"""The command: which faults it takes, and what it makes of what is broken."""

import json
import types

import pytest

from experiments.faults import __main__ as faults
from experiments.faults import drill
from experiments.faults.row import Row
from experiments.faults.runs import Broken, begun_with, line_of
from experiments.results.faults import faults_table


@pytest.fixture
def pretended(monkeypatch):
    """Two faults that happen to no run, one of which breaks it; the tries of each."""
    tried = {}

    def told(bench):
        tried["told"] = bench.tries
        return Row("a fault", 1, bench.tries, 7, "error: a | b", [4], "goes on")

    def untold(bench):
        tried["untold"] = bench.tries
        raise Broken("first\nlast")

    monkeypatch.setattr(drill, "OTHERS", {"told": told})
    monkeypatch.setattr(drill, "MOMENTS", {"untold": (2, untold)})
    monkeypatch.setattr(
        drill,
        "undisturbed",
        lambda *_, processes: types.SimpleNamespace(seconds=1.0, processes=processes),
    )
    return tried


def test_the_command_writes_a_table_and_json(tmp_path, pretended, capsys):
    faults.main(["--faults", "told", "--tries", "3", "--out", str(tmp_path)])
    content = json.loads((tmp_path / "faults.json").read_text())
    row = {"fault": "a fault", "processes": 1, "tries": 3, "lost": 7, "told": "error: a | b"}
    assert content["rows"] == [row | {"statuses": [4], "then": "goes on", "held": True}]
    assert {"command", "commit", "device", "date", "settings"} <= content.keys()
    line = faults_table([content]).splitlines()[-1]
    assert line.startswith(r"| a fault | 1 | 3 | 7 | error: a \| b | 4 | goes on | ")
    assert pretended == {"told": 3} and "goes on" in capsys.readouterr().out


def test_what_is_broken_is_a_row_and_an_exit_status(tmp_path, pretended, capsys):
    """The other faults happen nevertheless."""
    with pytest.raises(SystemExit) as stopped:
        faults.main(["--moments-of-two", "5", "--out", str(tmp_path)])
    assert stopped.value.code == 1
    whole, broken = json.loads((tmp_path / "faults.json").read_text())["rows"]
    assert not broken["held"] and broken["told"] == "first / last" and broken["processes"] == 2
    assert whole["held"] and pretended == {"untold": 5, "told": 1}
    assert "not as it should be: untold" in capsys.readouterr().err


def test_a_fault_that_there_is_not_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        faults.main(["--faults", "kill", "flood", "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2 and not (tmp_path / "out").exists()
    assert capsys.readouterr().err.startswith("error: faults: found flood, accepted: all, kill,")


@pytest.mark.parametrize(
    ("said", "begun"),
    [
        (
            "needs about 3 kB\n4 parameters; 40 updates of 4 rows; going on after update 1,020\n",
            1020,
        ),
        ("4 parameters; 40 updates of 4 sequences of 100 tokens\nstep 5", 0),
        ("needs about 3 kB\n", None),
    ],
)
def test_a_run_says_what_it_goes_on_after(said, begun):
    assert begun_with(said) == begun


def test_the_line_that_tells_of_a_fault_has_short_paths():
    said = "one\nerror: out: found /a/b/c/d (full)\nlast"
    assert line_of(said, "error:") == "error: out: found …/c/d (full)"
    assert line_of(said, "nothing") == "last" and line_of("", "x") == ""
