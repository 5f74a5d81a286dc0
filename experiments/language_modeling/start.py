"""What a run begins with: a tokeniser, and parameters, published ones, another run's, or none.

Published ones are a folder of a GPT-2 or a Llama (`models.convert.hugging_face`).
"""

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import jax

from experiments.language_modeling.config import PRESETS, LanguageModelingConfig, TextConfig
from experiments.run import devices, folders, training
from experiments.run.options import GIVEN
from inf_former_jax import files
from inf_former_jax.data.chat import TEMPLATE_FILES, has_template
from inf_former_jax.data.tokens import ByteLevelBpe, Bytes, Tokenizer, load_bpe, train_bpe
from inf_former_jax.models.convert import hugging_face, memory_file
from inf_former_jax.models.convert.graft import graft, grow
from inf_former_jax.require import require, require_same, shapes
from inf_former_jax.training import optim, state
from inf_former_jax.training.checkpoint import CheckpointError

TOKENIZER = "tokenizer.json"

#: Segments of a published model with more positions, if none are asked for. A Llama's thousands of
#: positions would be as many keys for every token, and the CPU compiles them for minutes.
_SEGMENT = 1024

_Config = TypeVar("_Config", bound=TextConfig)


def is_run(folder: str | Path) -> bool:
    """Whether a folder is one of our run folders rather than a published model's."""
    return (Path(folder) / "metrics.jsonl").is_file()


def load(
    folder: str | Path,
    segment_len: int = 0,
    memory: str = "",
    dtype: str = "",
    kind: type[TextConfig] = LanguageModelingConfig,
) -> tuple[TextConfig, Any, Tokenizer]:
    """(config, parameters, tokeniser) of a run folder, or of a published model's.

    Args:
        segment_len: T of a published model; 0 = all its positions, at most 1,024. A run has its
            own. The config's other fields are then those of the preset gpt2.
        memory: a folder of a memory that was trained beside a published model (`memory_file`), and
            that has segments of its own; "" = none.
        dtype: what layers compute in; "" = as it is.
        kind: the class of the run's config.

    Raises:
        ValueError: neither is there, segments for a run or too long ones, or a tokeniser that does
            not fit.
        FileNotFoundError: nothing is there.
    """
    own = "a run" if is_run(folder) else "a memory" if memory else ""
    found, accepted = f"{segment_len} for {own}", f"0, since {own} has its own"
    require(not (segment_len and own), "segment_len", found, accepted)
    if is_run(folder):
        require(not memory, "memory", f"{memory} for a run", "none, since a run has its own")
        cfg, _, params, _ = training.load(kind, folder, ("params",))
    else:
        model, params = hugging_face.load(folder)
        bare = not (model.long_term or model.compressed or model.mem_len)
        length = segment_len or (min(model.segment_len, _SEGMENT) if bare else model.segment_len)
        model = dataclasses.replace(model, segment_len=length)
        if memory:
            model, params = memory_file.load(memory, model, params)
        cfg = dataclasses.replace(PRESETS["gpt2"][1], model=model)
    if dtype:
        # A kernel of NVIDIA's knows half precision only.
        kernel = {"fused_by": "xla"} if dtype == "float32" else {}
        cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, dtype=dtype, **kernel))
    # Runs of passkey keep no copy of theirs.
    copied = kind is LanguageModelingConfig or (Path(folder) / TOKENIZER).is_file()
    kept = str(folder) if copied else cfg.tokenizer
    tokenizer, size = tokenizer_of(kept), cfg.model.vocab_size
    found = f"a tokeniser of {tokenizer.vocab_size:,} tokens in {folder}"
    accepted = f"at most the {size:,} of its weights"
    require(tokenizer.vocab_size <= size, "model", found, accepted)
    return cfg, params, tokenizer


def tokenizer_of(kind: str) -> Tokenizer:
    """The tokeniser that an option names.

    Args:
        kind: "bytes", a tokenizer.json, a folder with one or with vocab.json and merges.txt, or one
            of our run folders; ValueError if it is none of these.
    """
    if kind == "bytes":
        return Bytes()
    return tokenizer_of_run(kind) if is_run(kind) else load_bpe(kind)


def tokenizer_of_run(folder: str | Path) -> Tokenizer:
    """The tokeniser that a run was made with, which its folder holds.

    Raises:
        ValueError: no run, or its tokenizer.json is missing or damaged.
    """
    if folders.read_config(Path(folder)).get("tokenizer") == "bytes":
        return Bytes()
    return load_bpe(Path(folder) / TOKENIZER)


def trained_tokenizer(texts: Iterable[str], vocab_size: int, path: Path) -> Tokenizer:
    """The byte-level BPE in a file, which is trained on the texts if it is damaged or not there."""
    try:
        return load_bpe(path)
    except (ValueError, FileNotFoundError):
        return train_bpe(texts, vocab_size, path)


def keep_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write a run's tokeniser into its folder, unless it is of bytes or there already.

    Raises:
        CheckpointError: the folder holds a damaged tokeniser, or another one: the text of the run
            has changed.
    """
    if not isinstance(tokenizer, ByteLevelBpe) or jax.process_index():
        return
    file = folder / TOKENIZER
    if not os.path.lexists(file):
        return tokenizer.save(file)
    try:
        found = load_bpe(file).fingerprint
    except (ValueError, FileNotFoundError) as error:
        raise CheckpointError(f"out: {error}, or --fresh") from None
    if found != tokenizer.fingerprint:
        raise CheckpointError(
            f"out: {folder} was begun with another tokeniser, {file}; accepted: the text that it "
            f"was trained on, --tokenizer {file}, or --fresh"
        )


def keep_template(source: str, folder: Path) -> None:
    """Copy the chat template that stands beside a tokeniser, if there is one, into a run's folder.

    Args:
        source: what `tokenizer_of` took.
    """
    if jax.process_index() or not source or has_template(folder) or not has_template(source):
        return
    for name in TEMPLATE_FILES:  # the tokeniser's copy may have written the end into one of them
        if (Path(source) / name).is_file():
            files.write_text(folder / name, files.read_text(Path(source) / name))


def resolved(cfg: _Config, more_ids: int = 0) -> _Config:
    """The config with the architecture and the tokeniser of what it begins with.

    Args:
        more_ids: ids that the experiment adds to the vocabulary.

    Raises:
        ValueError: `init_from` is neither a published model that is known nor a run, or has no
            room for the run's segments.
        FileNotFoundError: there is no such folder.
    """
    if not cfg.init_from:
        return cfg
    tokenizer = cfg.tokenizer or cfg.init_from
    if is_run(cfg.init_from):
        fields, path = folders.read_config(Path(cfg.init_from)), f"{cfg.init_from}/config.json"
        given = folders.from_json(LanguageModelingConfig, fields, path).model
        if not cfg.tokenizer and isinstance(tokenizer_of_run(cfg.init_from), Bytes):
            tokenizer = "bytes"
    else:
        given, _ = hugging_face.load(cfg.init_from)
    taken = {name: getattr(given, name) for name in GIVEN}
    taken["vocab_size"] += more_ids
    model = dataclasses.replace(cfg.model, **taken)
    return dataclasses.replace(cfg, model=model, tokenizer=tokenizer)


def parameters(cfg: TextConfig) -> Any:
    """The parameters that a run begins with; None = fresh ones.

    A memory that the given parameters lack is grafted on, and ids that were added to the vocabulary
    get embeddings of their own.

    Args:
        cfg: a result of `resolved`.

    Raises:
        ValueError: the parameters are of another architecture, or have a memory that the model does
            not have.
    """
    if not cfg.init_from:
        return None
    if is_run(cfg.init_from):
        run, _, params, _ = training.load(LanguageModelingConfig, cfg.init_from, ("params",))
        given = run.model
    else:
        given, params = hugging_face.load(cfg.init_from)
    bare = given.long_term is None and given.compressed is None
    if bare and (cfg.model.long_term is not None or cfg.model.compressed is not None):
        params = graft(cfg.model, params, jax.random.key(cfg.seed))
    if cfg.model.vocab_size > given.vocab_size:
        params = grow(params, cfg.model.vocab_size, jax.random.key(cfg.seed))
    mesh, tx = devices.mesh_of(cfg), optim.optimizer(cfg.optim)
    wanted = state.abstract_state(cfg.model, tx, cfg.batch_size, mesh).params
    require_same(f"init_from: {cfg.init_from}: ", shapes(params), shapes(wanted))
    return params
