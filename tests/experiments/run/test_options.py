"""Options from dataclasses: what is refused is said in one line, and help is short."""

import dataclasses
from typing import Annotated, Literal

import pytest

from experiments.catalogue import EXPERIMENTS
from experiments.run import cli, options
from inf_former_jax.fields import Checked, Count, NonEmpty, Positive, Range, Required


@dataclasses.dataclass(frozen=True)
class Inner(Checked):
    tau: Annotated[float, Range(0, 1, "()")] = 0.5
    """τ of it,
    in two lines."""
    mean: Positive | None = None
    smooth: bool = True
    """Smooth it."""


@dataclasses.dataclass(frozen=True)
class Outer(Checked):
    run_folder: Annotated[str, Required("a folder")] = ""
    """Where it is."""
    steps: Count = 3
    widths: NonEmpty[Positive] = (0.5,)
    speaker: Literal[1, 2] = 1
    fresh: bool = False
    inner: Inner = dataclasses.field(default_factory=Inner)
    absent: Inner | None = None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--run-folder x", Outer("x")),
        ("--run_folder=x=y", Outer("x=y")),
        ("--run-folder x --steps 5 --steps=6", Outer("x", steps=6)),
        ("--run-folder -1 --widths 1 2e-3", Outer("-1", widths=(1.0, 0.002))),
        ("--widths 1 2 --run-folder x --speaker 2", Outer("x", widths=(1.0, 2.0), speaker=2)),
        (
            "--run-folder x --fresh --inner.no-smooth",
            Outer("x", fresh=True, inner=Inner(smooth=False)),
        ),
        ("--run-folder x --no-fresh --inner.mean 2", Outer("x", inner=Inner(mean=2.0))),
        ("--run-folder x --inner.mean None --inner.tau .25", Outer("x", inner=Inner(0.25))),
    ],
)
def test_options_are_fields(words, expected):
    assert options.applied(Outer(), words.split()) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "run_folder: found none, accepted: a folder"),
        ("--steps", "steps: found no value, accepted: a whole number ≥ 1"),
        ("--steps --fresh", "steps: found no value, accepted: a whole number ≥ 1"),
        ("--steps 1.5", "steps: found 1.5, accepted: a whole number ≥ 1"),
        ("--steps 1_0", "steps: found 1_0, accepted: a whole number ≥ 1"),
        ("--steps １", "steps: found １, accepted: a whole number ≥ 1"),
        ("--steps -2", "steps: found -2, accepted: a whole number ≥ 1"),
        ("--widths", "widths: found none, accepted: one or more"),
        ("--widths 1 x", "widths: found x, accepted: a number > 0"),
        ("--widths 1 nan", "widths: found nan, accepted: a number > 0"),
        ("--speaker 3", "speaker: found 3, accepted: 1 or 2"),
        ("--fresh=True", "fresh: found True, accepted: no value"),
        ("--inner.tau 2", "inner.tau: found 2.0, accepted: a number in (0, 1)"),
        ("--inner.tau x", "inner.tau: found x, accepted: a number in (0, 1)"),
        ("--inner.mean -1", "inner.mean: found -1.0, accepted: a number > 0"),
        ("--inner.mean -1e-3", "inner.mean: found -0.001, accepted: a number > 0"),
        ("--inner.mean -inf", "inner.mean: found -inf, accepted: a number > 0"),
        ("--run-folder x y", "run_folder: found x y, accepted: a text"),
        ("--fresh x", "fresh: found x, accepted: no value"),
        ("--absent.tau .5", "option: found --absent.tau, accepted: what --help-all shows"),
        ("--inner.taus 1", "option: found --inner.taus, accepted: --inner.tau or what --help-all "),
        ("x", "option: found x, accepted: what --help-all shows"),
        ("--no-steps", "option: found --no-steps, accepted: --steps or what --help-all shows"),
    ],
)
def test_what_is_no_option_is_refused_in_one_line(words, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.options("program", "", Outer(), words.split())
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count("\n") == 1
    assert error.startswith(f"error: {message}")


def test_help_says_value_bounds_and_purpose(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    text = options.help_text("program", "What it does.", Outer(), whole=True)
    assert " ".join(text.split()) == (
        "usage: program [--options] What it does. options --run-folder (required) Where it is. "
        "--steps 3 ≥ 1 --widths 0.5 one or more of: > 0 --speaker 1 1 or 2 --fresh "
        "inner --inner.tau 0.5 in (0, 1); τ of it, in two lines. --inner.mean None > 0 or None "
        "--inner.no-smooth Not: Smooth it."
    )


PRESETS = [(name, preset) for name, one in EXPERIMENTS.items() for preset in one.presets]


@pytest.mark.parametrize("width", [80, 140])
def test_help_is_at_most_a_hundred_lines(width, monkeypatch):
    """And --help-all names every option, with the preset's value."""
    monkeypatch.setenv("COLUMNS", str(width))
    for name, preset in PRESETS:
        text, config = EXPERIMENTS[name].presets[preset]
        lines = options.help_text("program", text, config).splitlines()
        assert len(lines) <= 100, (name, preset)
        assert all(len(line) <= width for line in lines if line.startswith("  --"))
        whole = options.help_text("program", text, config, whole=True).split()
        for option in options.offered(config):
            no = "no-" if option.hint is bool and option.value else ""
            assert option.flag(no) in whole


def test_help_of_an_experiment_names_its_default(capsys):
    for one in EXPERIMENTS.values():
        with pytest.raises(SystemExit) as stopped:
            cli.parse(one, "What it does.", ["--help"])
        text = capsys.readouterr().out
        assert not stopped.value.code and f"without one it is {one.default}" in text
        assert "required" not in text and set(one.presets) <= set(text.split())


def test_rare_options_are_fields():
    configs = [EXPERIMENTS[name].presets[preset][1] for name, preset in PRESETS]
    assert {option.name for cfg in configs for option in options.offered(cfg)} >= options.RARE
