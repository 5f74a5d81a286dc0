"""What a run begins with: GPT-2's published parameters, those of another run, or none."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from experiments.language_modeling.config import LanguageModelingConfig
from experiments.run import folders, training
from inf_former_jax.data.tokens import Bytes, Tokenizer, load_bpe
from inf_former_jax.models.convert import gpt2
from inf_former_jax.models.decoder import ModelConfig
from inf_former_jax.training import optim, sharding, state
from inf_former_jax.training.checkpoint import CheckpointError

#: What the given parameters decide; the rest (segments, memory, dropout) is the run's own.
_GIVEN = ("vocab_size", "num_layers", "num_heads", "head_dim", "d_model", "d_inner", "max_position")

TOKENIZER = "tokenizer.json"


def is_run(folder: str | Path) -> bool:
    """Whether a folder is one of our run folders rather than GPT-2's files."""
    return (Path(folder) / "metrics.jsonl").is_file()


def tokenizer_of_run(folder: str | Path) -> Tokenizer:
    """The tokeniser that a run was made with, which its folder holds.

    Raises:
        ValueError: no run, or its tokenizer.json is missing or damaged.
    """
    if folders.read_config(Path(folder)).get("tokenizer") == "bytes":
        return Bytes()
    return load_bpe(Path(folder) / TOKENIZER)


def keep_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write a run's tokeniser into its folder; what is there already must be the same.

    Raises:
        CheckpointError: a run that goes on with other tokens, since its text has changed.
    """
    if not hasattr(tokenizer, "save") or jax.process_index():
        return
    file = folder / TOKENIZER
    if file.is_file() and load_bpe(file).fingerprint != tokenizer.fingerprint:
        raise CheckpointError(
            f"out: {folder} was begun with another tokeniser, {file}; accepted: the text that it "
            f"was trained on, --tokenizer {file}, or --fresh"
        )
    tokenizer.save(file)


def _load(folder: str) -> tuple[ModelConfig, Any]:
    if is_run(folder):
        cfg, _, params, _ = training.load(LanguageModelingConfig, folder, ("params",))
        return cfg.model, params
    return gpt2.load(folder)


def resolved(cfg: Any, more_ids: int = 0) -> Any:
    """The config with the sizes and the tokeniser of what it begins with.

    Args:
        cfg: of this experiment, or of one that begins with its runs.
        more_ids: that the experiment adds to the vocabulary.

    Raises:
        ValueError: `init_from` is neither GPT-2's files nor a run.
        FileNotFoundError: there is nothing.
    """
    if not cfg.init_from:
        return cfg
    if is_run(cfg.init_from):
        fields = folders.read_config(Path(cfg.init_from))
        given = folders.from_json(LanguageModelingConfig, fields).model
    else:
        given, _ = gpt2.load(cfg.init_from)
    sizes = {name: getattr(given, name) for name in _GIVEN}
    sizes["vocab_size"] += more_ids
    model = dataclasses.replace(cfg.model, **sizes)
    tokenizer = cfg.tokenizer
    if not tokenizer:
        given_tokenizer = tokenizer_of_run(cfg.init_from) if is_run(cfg.init_from) else None
        tokenizer = "bytes" if isinstance(given_tokenizer, Bytes) else cfg.init_from
    return dataclasses.replace(cfg, model=model, tokenizer=tokenizer)


def parameters(cfg: Any) -> Any:
    """The parameters that a run begins with; None = fresh ones.

    Args:
        cfg: as for `resolved`, which made it: ids that were added get embeddings of their own.

    Raises:
        ValueError: they are of another architecture, or have a memory that the model has not.
    """
    if not cfg.init_from:
        return None
    given, params = _load(cfg.init_from)
    bare = given.long_term is None and given.compressed is None
    if bare and (cfg.model.long_term is not None or cfg.model.compressed is not None):
        params = gpt2.graft(cfg.model, params, jax.random.key(cfg.seed))
    if cfg.model.vocab_size > given.vocab_size:
        params = gpt2.grow(params, cfg.model.vocab_size, jax.random.key(cfg.seed))
    mesh, tx = sharding.make_mesh(cfg.mesh_model), optim.optimizer(cfg.optim)
    wanted = state.abstract_state(cfg.model, tx, cfg.batch_size, mesh).params
    found, accepted = _leaves(params), _leaves(wanted)
    for name in sorted(found.keys() | accepted.keys()):
        shapes = found.get(name, "nothing"), accepted.get(name, "nothing")
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"init_from: {cfg.init_from}: {name}: found {shapes[0]}, accepted: {shapes[1]}, "
                f"as the model has it"
            )
    return params


def _leaves(params):
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}
