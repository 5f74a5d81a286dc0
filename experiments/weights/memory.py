"""The memory that a run trained beside a published model, as a small folder.

    python -m experiments.weights memory --run RUN --out DIR

DIR gets memory.safetensors (bfloat16), memory.json and a card, README.md. `experiments.generate`,
`dialogue chat` and every `evaluate` take it beside the published model: --memory DIR.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

from experiments.dialogue.config import DialogueConfig
from experiments.language_modeling.config import TextConfig
from experiments.language_modeling.given import kind_of
from experiments.language_modeling.start import is_run
from experiments.passkey.config import PasskeyConfig
from experiments.run import folders, training
from inf_former_jax.fields import Checked, Required
from inf_former_jax.files import write_text
from inf_former_jax.models.convert import memory_file
from inf_former_jax.require import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryConfig(Checked):
    """Which memory is written where."""

    run: Annotated[str, Required("a run folder")] = ""
    """A run of language_modeling, dialogue or passkey with --optim.trained memory."""
    out: Annotated[str, Required("a folder")] = ""
    """The folder to write."""


def run(cfg: MemoryConfig) -> None:
    """Write the folder, and print what it is.

    Raises:
        ValueError: no run, one that goes on, or one that trained more than a memory, or beside
            another run: it belongs to no published model.
    """
    given, _, params, _ = training.load(_kind_of(cfg.run), cfg.run, ("params",))
    accepted = "memory, beside which the model stayed what it was"
    require(given.optim.trained == "memory", f"{cfg.run}: optim.trained", "all", accepted)
    begun = given.init_from
    found = f"{begun}, a run, which has a memory of its own"
    require(not is_run(begun), f"{cfg.run}: init_from", found, "a published model")
    done = (Path(cfg.run) / "result.json").is_file()
    require(done, f"run: {cfg.run}", "no result.json", "a run that has ended")
    data = Path(getattr(given, "data", "")).name or "the text that the command has by default"
    folder = folders.make(cfg.out)
    size = memory_file.save(given.model, params, folder)
    card = f"""# A memory trained beside {Path(begun).name}

{size / 1e6:.1f} MB of parameters in bfloat16, of {given.optim.steps} updates on
{data}. They belong to the model whose digest
memory.json has, and change nothing in it.

    python -m experiments.generate --model MODEL --memory {folder.name} --prompt-file BOOK
"""
    write_text(folder / "README.md", card)
    print(card)


def _kind_of(run: str) -> type[TextConfig]:
    """The class of a run's config, told by what no other run that trains a memory alone has."""
    found = kind_of(run, DialogueConfig, "layout")
    return found if found is DialogueConfig else kind_of(run, PasskeyConfig, "task")
