"""The parameters of a run as a small folder, without its checkpoints.

    python -m experiments.weights parameters --run RUN --out DIR

DIR gets parameters.safetensors, the run's config.json and result.json, and a card, README.md.
`sorting evaluate` and `experiments.analysis` take it in the place of the run. Only runs of sorting
are written.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from experiments.run import folders, tables, training
from experiments.sorting.config import SortingConfig
from inf_former_jax.fields import Checked, Required
from inf_former_jax.files import new_folder, write_text
from inf_former_jax.models.convert import parameters_file
from inf_former_jax.require import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParametersConfig(Checked):
    """Whose parameters are written where."""

    run: Annotated[str, Required("a run folder")] = ""
    """A run of sorting that has ended."""
    out: Annotated[str, Required("a folder")] = ""
    """The folder to write."""


def run(cfg: ParametersConfig) -> None:
    """Write the folder, and print what it is.

    Raises:
        ValueError: no run of sorting, one that goes on, or a folder that is not empty.
    """
    given, _, params, _ = training.load(SortingConfig, cfg.run, ("params",))
    result = folders.read_result(Path(cfg.run))
    require(result is not None, f"run: {cfg.run}", "no result.json", "a run that has ended")
    assert result is not None
    with new_folder(cfg.out) as folder:
        _fill(folder, Path(cfg.out).name, given, params, result)


def _fill(
    folder: Path, name: str, given: SortingConfig, params: Any, result: dict[str, Any]
) -> None:
    """Write the files, and print the card."""
    size = parameters_file.save(params, folder / training.PARAMETERS)
    folders.write_json(folder / "config.json", folders.to_json(given))
    folders.write_result(folder, result)
    accuracies = {label: row["accuracy"] for label, row in result["test"].items()}
    rows = [[name, f"{value:.3f}"] for name, value in (accuracies | result["baselines"]).items()]
    table = tables.markdown(("", "accuracy"), rows)
    card = f"""# {result["preset"]}, a sorter of {given.length:,} tokens

{result["parameters"]:,} parameters ({size / 1e6:.2f} MB), trained by {result["steps"]:,} updates in
{result["training_seconds"] / 60:.0f} minutes on {result["device"]}:

    {result["command"]}

Commit {result["commit"]}, {result["date"]}. Accuracy of the 20 answers on test sequences:

{table}

It sorts sequences of other lengths without further training:

    python -m experiments.sorting evaluate --run {name} --length 64000 --out OUT
"""
    write_text(folder / "README.md", card)
    print(card)
