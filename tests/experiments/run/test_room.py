"""What a run needs is known before any of it is made, and what there is no room for is refused."""

import dataclasses
import functools
import os

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.analysis import __main__ as analysis
from experiments.run import cli, options, room, training
from inf_former_jax import fields
from inf_former_jax.memory.state import init as init_memory
from inf_former_jax.models.decoder import Decoder, ModelConfig, operators
from inf_former_jax.training import optim, sharding, state
from tests import pairs
from tests.experiments.run.test_options import EXPERIMENTS, PRESETS


def leaves(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    "name, preset",
    [
        pytest.param("language_modeling", "smollm2-infinity", marks=pytest.mark.slow),
        ("sorting", "infinity-former"),
        ("sorting", "compressive"),
        ("language_modeling", "gpt2-infinity-lasting"),
    ],
)
def test_parameters_optimiser_and_memory_are_exact(name, preset):
    cfg = EXPERIMENTS[name].presets[preset][1]
    mesh, tx = sharding.make_mesh(), optim.optimizer(cfg.optim)
    whole = state.abstract_state(cfg.model, tx, cfg.batch_size, mesh)
    needs, copies = room.of_run(cfg, 1), jax.local_device_count()
    assert needs["parameters"] == 4 * leaves(whole.params) * copies
    counts = 16  # the optimiser's counts of updates
    assert abs(needs["optimiser"] / copies - 4 * leaves(whole.opt_state)) <= counts
    memory = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(whole.memory))
    assert needs["memory"] == memory


@pytest.mark.parametrize("fsdp, model, copies", [(1, 1, 8), (4, 1, 2), (2, 2, 2), (8, 1, 1)])
def test_the_optimiser_is_shared_along_fsdp_and_parameters_are_not(fsdp, model, copies):
    """Of eight devices: an update puts the parameters together on each that has rows."""
    cfg = EXPERIMENTS["sorting"].presets["infinity-former"][1]
    alone = room.of_run(dataclasses.replace(cfg, devices=1), 1)
    shared = dataclasses.replace(cfg, devices=8, mesh_fsdp=fsdp, mesh_model=model)
    needs = room.of_run(shared, 1)
    assert needs["optimiser"] == copies * alone["optimiser"]
    for name in ("parameters", "gradients", "tables"):
        assert needs[name] == 8 // model * alone[name]


#: Each kind of matrix is in one of these; the others are slow.
QUICK = ("waves, intervals, sparsemax", "mixed, cells", "llama, grafted")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in pairs.PAIRS]
)
def test_parameters_of_every_memory_are_exact(name):
    sizes = {"num_layers": 2, "num_heads": 2, "head_dim": 3, "d_model": 8, "d_inner": 5}
    cfg = ModelConfig(**{**sizes, "segment_len": 4, "mem_len": 4, **pairs.PAIRS[name]})

    def init(key):
        given = np.zeros((1, 4), int), init_memory(cfg, 1)
        return Decoder(cfg).init(key, *given, operators=operators(cfg))["params"]

    assert room.parameters(cfg) == leaves(jax.eval_shape(init, jax.random.key(0)))


HUGE = {
    "sorting": "--model.vocab-size 2000000000; --model.d-model 2000000000; --length 2000000000; "
    "--model.num-layers 2000000000; --model.long-term.bins 2000000000; --batch-size 2000000000; "
    "--model.d-inner 2000000000; "
    "paper-4k --model.long-term.num-samples 2000000000 --model.long-term.contraction power",
    "recall": "--task.segments 2000000000 --task.num-keys 2000000000; "
    "--model.memory-gradient 2000000000 --batch-size 2000000",
    "questions": "--train-documents 2000000000",
    "language_modeling": "--segments 2000000000; --model.max-position 2000000000",
    "passkey": "--data x --task.distances 2000000000",
}


@pytest.mark.parametrize(
    "name, words",
    [(name, words) for name, cases in HUGE.items() for words in cases.split("; ")],
)
def test_what_there_is_no_room_for_is_refused_at_once(name, words, tmp_path, capsys):
    """In one line with what is needed and what is there; with --any-size it is not."""
    out, experiment = tmp_path / "run", EXPERIMENTS[name]
    with pytest.raises(SystemExit) as stopped:
        cli.main(experiment, "", [*words.split(), "--out", str(out)])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count("\n") == 1 and not out.exists()
    assert error.startswith("error: memory: needs about ") or "max_operator_mib" in error
    if "memory: " in error:
        assert ", found " in error and error.endswith("smaller sizes, or --any-size to try\n")
        _, cfg = cli.parse(experiment, "", [*words.split(), "--any-size"])
        training.check_room(experiment, cfg)


@pytest.mark.parametrize(
    ("name", "words", "accepted"),
    [
        ("sorting", "--valid-sequences 1000000000", "[1, 1000000]"),
        ("recall", "--test-documents 2000000000", "[1, 1000000]"),
        ("sorting", "--model.long-term.num-basis 30000", "[1, 16384]"),
    ],
)
def test_what_would_take_days_is_refused_at_once(name, words, accepted, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.parse(EXPERIMENTS[name], "", words.split())
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.endswith(f"a whole number in {accepted}\n")


@pytest.mark.parametrize(
    "words",
    ["stream --segments 100000000", "retention --writes 2000000000", "choose --tokens 2000000000"],
)
def test_analyses_without_room_are_refused_at_once(words, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        analysis.main([*words.split(), "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: memory: needs about ")


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 B"), (999, "999 B"), (23.4e9, "23.4 GB"), (768e12, "768 TB")]
)
def test_sizes_have_three_digits(number, text):
    assert room.size(number) == text


def test_there_is_some_memory_here():
    assert 2**28 < room.found() < 2**45


# Fuzz: whatever the options are, they are refused in one line, or all that is accepted is in
# bounds and fits into the memory that is there.

NUMBERS = ["0", "1", "2", "-1", "64", "1e9", "1.5", "inf", "-inf", "nan", "1e39", "1e-46", "0.5"]
NUMBERS += [str(10**23), str(2**31), str(2**31 - 1), str(2**32 - 1), "4000000000", "100000000"]
WORDS = [
    *NUMBERS,
    "",
    "None",
    "True",
    "x",
    "--",
    "-",
    "τ",
    "power",
    "a b",
    "=",
    "\x1b[2J",
    "9" * 5000,
]


@functools.cache
def offered(name: str, preset: str) -> list[options.Option]:
    return list(options.offered(EXPERIMENTS[name].presets[preset][1]))


def spelt(option: options.Option) -> list[str]:
    """The words of the value that an option has."""
    value = option.value
    if isinstance(value, bool):
        return []
    return [str(entry) for entry in (value if isinstance(value, tuple) else (value,))]


@st.composite
def commands(draw):
    name, preset = draw(st.sampled_from(PRESETS))
    words = [preset]
    some = st.lists(st.sampled_from(offered(name, preset)), min_size=1, max_size=4)
    for option in draw(some):
        hostile = st.lists(st.sampled_from(WORDS), max_size=2)
        words += [option.flag(), *draw(st.just(spelt(option)) | hostile)]
    return name, words


@pytest.mark.parametrize("examples", [50, pytest.param(200, marks=pytest.mark.slow)])
def test_hostile_options_are_refused_in_one_line(examples):
    settings(derandomize=True, max_examples=examples)(given(commands())(refused_or_in_bounds))()


def refused_or_in_bounds(command):
    name, words = command
    experiment = dataclasses.replace(EXPERIMENTS[name], complete=lambda cfg: cfg)
    preset, rest = words[0], words[1:]
    config = experiment.presets[preset][1]
    if {*rest} & {*options.HELP, options.HELP_ALL}:
        return
    try:
        cfg = options.applied(config, rest)
        training.check_room(experiment, cfg)
    except ValueError as error:
        assert str(error).count("\n") == 0 and ": " in str(error)
        assert "found " in str(error) and "accepted: " in str(error)
        return
    for option in options.offered(cfg):  # what is accepted is in bounds
        assert fields.checked(option.name, option.hint, option.value) == option.value
    needs, pages = room.of_run(cfg, *experiment.size(cfg)), os.sysconf("SC_PHYS_PAGES")
    assert cfg.any_size or sum(needs.values()) <= pages * os.sysconf("SC_PAGE_SIZE")
    assert hash(cfg) == hash(options.applied(config, rest))


def test_cores_are_those_of_the_process_and_of_its_container(monkeypatch, tmp_path):
    monkeypatch.setattr(room.os, "sched_getaffinity", lambda _: set(range(6)))
    limit = tmp_path / "cpu.max"
    monkeypatch.setattr(room, "_SHARE", limit)
    for text, count in (None, 6), ("max 100000", 6), ("250000 100000", 2), ("5000 100000", 1):
        if text:
            limit.write_text(text)
        assert room.cores() == count
