"""Speed, measured: interleaved medians in one run, a table for people and JSON for programs.

    python -m experiments.benchmark [--measure NAMES] [--quick]

Each measure writes a file of its own, with its commit; other measures' files are left as they are.
With --compare COMMIT only training steps are timed, in turns with those of the commit.
"""

import os
import sys

import jax

from experiments.benchmark import compare
from experiments.benchmark.designs import designs
from experiments.benchmark.inference import generation, gpt2, smollm2, stream
from experiments.benchmark.memory import memory, operators
from experiments.benchmark.processes import presets
from experiments.benchmark.saves import saves
from experiments.benchmark.steps import DTYPES, SCHEDULES, config, memory_gradient, steps
from experiments.benchmark.timing import BenchmarkConfig
from experiments.results.benchmark import benchmark_rows
from experiments.run import cli, devices, folders, plots, tables
from inf_former_jax.require import require

_FUNCTIONS = (presets, gpt2, smollm2, stream, steps, memory_gradient, generation, memory, designs)
_FUNCTIONS += (operators, saves)
MEASURES = {function.__name__: function for function in _FUNCTIONS}


def main(argv: list[str] | None = None) -> None:
    """The command line: `python -m experiments.benchmark [--options]`."""
    argv = sys.argv[1:] if argv is None else argv
    about = "\n\n".join(f"{name}: {measure.__doc__}" for name, measure in MEASURES.items())
    program, about = "python -m experiments.benchmark", f"{__doc__}\n\n{about}"
    cfg = cli.options(program, about, BenchmarkConfig(), argv)
    with cli.refusals():
        check(cfg)
        is_file = cfg.compare.endswith(".json")
        then = compare.stored(cfg.compare) if is_file else {}
        commit = compare.commit_of(cfg.compare) if cfg.compare and not is_file else ""
        measures = [name for name in cfg.measure if name in then or not is_file]
        require(bool(measures), "compare", f"{cfg.compare} of {', '.join(then)}", "of --measure")
        folder = folders.make(cfg.out)
    devices.offer()
    origin = folders.provenance("benchmark", "", argv) | {"settings": folders.to_json(cfg)}
    # Large pages change what a CPU needs for large arrays.
    origin["glibc_tunables"] = os.environ.get("GLIBC_TUNABLES", "")
    # A program that was compiled before would be read from the cache, not compiled.
    changed = {"jax_enable_compilation_cache": False}
    changed = {"jax_disable_most_optimizations": True} if cfg.quick else changed
    before = {name: jax.config.values[name] for name in changed}
    for name, value in changed.items():
        jax.config.update(name, value)
    try:
        for name in ("compare",) if commit else measures:
            if commit:
                with cli.refusals():
                    found = {name: compare.pairs(cfg, commit)}
            else:
                found = {name: MEASURES[name](cfg)}
            folders.write_json(folder / f"{name}.json", origin | {"found": found})
            rows = [*benchmark_rows(found)]
            tables.show(name, ("", "median", ""), [row[:3] for row in rows], 140)
            plots.bars(folder / f"{name}.png", name, {row.what: row.figures for row in rows})
            print(f"{folder}/{name}.json, {folder}/{name}.png")
            if is_file:
                header = ("", "then", "now", "then / now", "at one rate")
                tables.show(cfg.compare, header, compare.beside(then, found, name), 140)
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def check(cfg: BenchmarkConfig) -> None:
    """Refuse what cannot be measured."""
    for option, known in (("measure", MEASURES), ("schedules", SCHEDULES), ("dtypes", DTYPES)):
        for value in getattr(cfg, option):
            require(value in known, option, value, ", ".join(known))
    for name in cfg.presets:
        config(name, cfg.quick)


if __name__ == "__main__":
    main()
