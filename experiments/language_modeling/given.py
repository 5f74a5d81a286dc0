"""A trained model from a folder, with a window and a memory that need no training."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

from experiments.language_modeling import start
from experiments.language_modeling.config import LanguageModelingConfig, PublishedConfig, TextConfig
from experiments.run import devices, folders, lower
from inf_former_jax.data.tokens import Tokenizer
from inf_former_jax.fields import Natural, Rate, Required
from inf_former_jax.memory.config import require_kept
from inf_former_jax.models.decoder import ModelConfig
from inf_former_jax.models.presets import TRAINING_FREE
from inf_former_jax.require import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class GivenConfig(PublishedConfig):
    """A model from a folder, and the window and memory that it gets."""

    run: Annotated[str, Required("a run folder, or one of a GPT-2 or Llama")] = ""
    """A run folder of experiments.language_modeling, or a Hugging Face folder of a GPT-2 or a
    Llama."""
    window: Natural = 0
    """Short-term memory of a published model, in tokens; beside cells whole segments. A run has its
    own."""
    sinks: Natural = 0
    """First tokens of a document that stay in the window, if there is one."""
    cells: Natural = 0
    """Give a model without a memory one of this many cells, which join its attention by its own
    matrices: nothing is trained (SPEC §9). 0 = the model as it is. Without --cell-tau a power of
    two."""
    cell_layers: tuple[Natural, ...] = ()
    """The layers that have the cells, counted from 0; () = all."""
    cell_distance: Natural = 0
    """With rotary positions, at how many tokens from every query the cells stand."""
    cells_by_age: bool = False
    """With rotary positions: each cell stands before the window, as far as it is old, and at most
    --cell-distance tokens; 0 = any distance."""
    cell_tau: Rate = 0.0
    """0: cells are averaged in pairs when all are full, so that each holds as many tokens. Else τ
    of fixed contraction: what part of the cells a segment squeezes the past into."""
    cells_kept: Literal["", "attended", "newest"] = ""
    """With --cell-tau 1 - 1/n: this part of the cells stays as it is instead of being squeezed, and
    the others are dropped. attended: what attention fell on stays (paper §3.3); newest: a queue."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluatedConfig(GivenConfig):
    """A model from a folder that is evaluated."""

    keep_lower: str = ""
    """Folder for what the layers below the cells (--cell-layers) say of each batch, where other
    evaluations and controls of the same model and text find it; "" = none."""


#: What gives a model a memory that needs no training.
_GIVEN = ("window", "sinks", "cells", "cell_layers", "cell_distance", "cells_by_age", "cell_tau")
_GIVEN += ("cells_kept",)
#: What only cells have.
_OF_CELLS = ("cell_layers", "cell_distance", "cells_by_age", "cell_tau", "cells_kept")


def with_memory(model: ModelConfig, cfg: GivenConfig) -> ModelConfig:
    """The model with the window and the cells that are asked for, none of which has parameters.

    Raises:
        ValueError: a run and a window, or a model that has a memory of its own already, or one
            that it cannot have.
    """
    given = [name for name in _GIVEN if getattr(cfg, name)]
    if not given:
        return model
    first = f"{getattr(cfg, given[0])}"
    bare = model.long_term is None and model.compressed is None
    require(bare, given[0], f"{first} for a model with a memory", "none, or a model without one")
    of_run = start.is_run(cfg.run) and given[0] in ("window", "sinks")
    require(not of_run, given[0], f"{first} for a run", "none, since a run has its own")
    for name in given:
        if name in _OF_CELLS:
            require(cfg.cells > 0, name, f"{getattr(cfg, name)} without cells", "none there")
    window: dict[str, Any] = {"mem_len": cfg.window or model.mem_len}
    window["sinks"] = cfg.sinks or model.sinks
    if not cfg.cells:
        return dataclasses.replace(model, **window)
    fits = cfg.cell_tau > 0 or cfg.cells & (cfg.cells - 1) == 0
    require(fits, "cells", cfg.cells, "a power of two, or any number with cell_tau")
    if cfg.cells_kept:
        require(
            cfg.cell_tau > 0, "cells_kept", f"{cfg.cells_kept}, and no cell_tau", "one of 1 - 1/n"
        )
        require_kept(cfg.cell_tau, cfg.cells, "cell_tau", "cells")
    length = model.segment_len
    accepted = f"a multiple of segments of {length} beside cells"
    require(window["mem_len"] % length == 0, "window", window["mem_len"], accepted)
    contraction: dict[str, Any] = {}
    if cfg.cell_tau:
        contraction = {"contraction": "fixed", "tau": cfg.cell_tau}
    if cfg.cells_kept:
        contraction["contraction"] = "kept"
    if cfg.cells_kept == "attended":
        contraction["sticky"] = True
    memory = dataclasses.replace(TRAINING_FREE, num_basis=cfg.cells, **contraction)
    where = {
        "long_term_layers": cfg.cell_layers,
        "cell_distance": cfg.cell_distance,
        "cells_by_age": cfg.cells_by_age,
    }
    # Fused attention computes the same, but does not say what its scores sum to.
    attention: dict[str, Any] = {"fused_attention": False, "fused_by": "xla"}
    return dataclasses.replace(model, long_term=memory, **window, **where, **attention)


def given(
    cfg: GivenConfig, batch_size: int = 0, kind: type[TextConfig] = LanguageModelingConfig
) -> tuple[TextConfig, Any, Tokenizer]:
    """(config, parameters, tokeniser) of the model with what it is given, on any mesh.

    Args:
        batch_size: rows that will be read at once; 0 = the run's.
        kind: the class of the run's config.

    Raises:
        ValueError, FileNotFoundError: as `start.load` and `with_memory`.
    """
    run, params, tokenizer = start.load(cfg.run, cfg.segment_len, cfg.memory, cfg.dtype, kind)
    run = devices.on_this_machine(run, batch_size=batch_size or run.batch_size)
    run, note = devices.settled(run)
    if note:
        print(note)
    return dataclasses.replace(run, model=with_memory(run.model, cfg)), params, tokenizer


def evaluated(
    cfg: EvaluatedConfig, batch_size: int = 0, kind: type[TextConfig] = LanguageModelingConfig
) -> tuple[TextConfig, Any, Tokenizer]:
    """`given` of an evaluation, which keeps lower layers where it says, and not where a run did.

    Raises:
        ValueError, FileNotFoundError: as `given` and `lower.check`.
    """
    run, params, tokenizer = given(cfg, batch_size, kind)
    if cfg.keep_lower:
        nothing_dropped = dataclasses.replace(run.model, dropout=0.0, attention_dropout=0.0)
        lower.check(nothing_dropped)
    return dataclasses.replace(run, keep_lower=cfg.keep_lower), params, tokenizer


def settings_of(cfg: GivenConfig) -> dict[str, Any]:
    """What a result says of how it was made, as JSON: the config, and that of the model."""
    return {"settings": folders.to_json(cfg), "trained": folders.read_config(Path(cfg.run))}


def kind_of(folder: str, own: type[TextConfig], field: str) -> type[TextConfig]:
    """The class of a folder's config: `own` of a run that has this field, else language_modeling's.

    Raises:
        ValueError: a config.json that is no run's.
    """
    ours = start.is_run(folder) and field in folders.read_config(Path(folder))
    return own if ours else LanguageModelingConfig
