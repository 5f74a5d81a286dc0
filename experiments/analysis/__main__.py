"""What the memory is and does: alone, by its operators; and in a trained model.

    python -m experiments.analysis retention [--options]   R² of past segments by their age
    python -m experiments.analysis choose [--options]      constants for the tokens to remember
    python -m experiments.analysis stream [--options]      a thousand writes: drift, float32's error
    python -m experiments.analysis memory --run FOLDER     where a trained model attends, its gate
    python -m experiments.analysis signal --run FOLDER     what its memory's signal gives back
    python -m experiments.analysis precision [--options]   accuracy and that, against N and length

Each prints a table and writes JSON and a picture.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.analysis import choose, memory, precision, retention, signal, stream
from experiments.run import cli, folders

#: Name → the module that computes result.json, and the defaults of its options.
_COMMANDS = {
    "retention": (retention, retention.RetentionConfig()),
    "choose": (choose, choose.ChooseConfig()),
    "stream": (stream, stream.StreamConfig()),
}

#: Name → the command line of what looks at trained models.
_OF_RUNS = {"memory": memory.main, "signal": signal.main, "precision": precision.PRECISION.main}


def main(argv: Sequence[str] | None = None) -> None:
    """The command line: `python -m experiments.analysis COMMAND [--options]`."""
    asked = cli.command(__doc__, (*_COMMANDS, *_OF_RUNS), argv)
    if asked is None:
        return None
    name, argv = asked
    if name in _OF_RUNS:
        return _OF_RUNS[name](argv)
    module, defaults = _COMMANDS[name]
    program = f"python -m experiments.analysis {name}"
    cfg: Any = cli.options(program, module.__doc__, defaults, argv)
    folder = Path(cfg.out)
    with cli.refusals():
        module.check(cfg)
        with folders.open_run(folder, cfg) as result:
            if result is not None:
                return print(f"{folder} holds the finished result; --out for another one")
            found = module.compute(cfg, folder)
            origin = folders.provenance("analysis", name, [name, *argv])
            origin["settings"] = folders.to_json(cfg)
            folders.write_result(folder, origin | found)
    own = ("config.json", folders.LOCK)
    names = sorted(path.name for path in folder.iterdir() if path.name not in own)
    print(f"{folder}/{', '.join(names)}")


if __name__ == "__main__":
    main()
