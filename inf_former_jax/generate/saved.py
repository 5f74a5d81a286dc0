"""The state as a file: what was read, and which model has read it."""

import dataclasses
import os
import re
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from inf_former_jax.files import decode, digest_of, json_text, parse_json, reading, writing
from inf_former_jax.generate.decoding import DecodeState, NonFiniteState, start
from inf_former_jax.memory.config import LongTermConfig
from inf_former_jax.memory.state import MAX_SEEN
from inf_former_jax.models.config import ModelConfig
from inf_former_jax.models.decoder import Decoder
from inf_former_jax.require import require, require_same

_ACCEPTED, _OTHER = "a file of save_state", "another kind of file"

#: How an .npz begins, with members and without.
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")

#: The member that tells the model, as JSON; the others are the leaves by their paths.
_MODEL = "model"

_LOGITS = ".cache.logits"

#: Leaves of a memory that is read at a place, as they were called before heads could differ.
_ONCE_PROJECTED = re.compile(r"\.projected\.(?=(keys|values)$)")

#: Fields of a configuration that do not change what a state means, of training and of computing.
_IRRELEVANT = {"dropout", "inner_dropout", "attention_dropout", "memory_gradient", "remat", "dtype"}
_IRRELEVANT |= {"query_chunk", "fused_attention", "fused_by", "long_term.read"}
_IRRELEVANT |= {f"long_term.{name}" for name in ("prior_scale", "prior_mean", "max_operator_mib")}


def save_state(
    path: str | os.PathLike,
    state: DecodeState,
    *,
    decoder: Decoder | None = None,
    params: Any = None,
) -> None:
    """Write a state as one NumPy .npz file of its leaves by path; the weights are not in it.

    Args:
        decoder, params: the model that has read it. Its configuration and a digest of its weights
            are kept, so that `load_state` refuses another model.

    Raises:
        NonFiniteState: a leaf has a NaN or an infinity, from which nothing can go on.
        ValueError: the file cannot be written there.
    """
    leaves = _by_path(jax.device_get(state))
    for name, leaf in leaves.items():
        wrong = np.asarray(leaf)[~np.isfinite(leaf)]
        if wrong.size:
            raise NonFiniteState(f"state{name}: found {wrong[0]}, accepted: finite numbers")
    told = np.frombuffer(json_text(_model(decoder, params)).encode(), np.uint8)
    with writing(path) as file:
        np.savez(file, **{_MODEL: told}, **leaves)


def load_state(
    path: str | os.PathLike,
    decoder: Decoder,
    batch: int,
    *,
    params: Any = None,
    accept: Literal["same", "any"] = "same",
) -> DecodeState:
    """The state that `save_state` wrote, to go on with, in the dtype that it had.

    Args:
        params: the weights that go on from it; None = they are not compared.
        accept: same = a state that these weights and this configuration made, as far as the file
            tells them; it must tell the weights where `params` are given. any = every state of the
            right shapes, although its numbers may mean nothing to this model.

    Raises:
        ValueError: the file is damaged, or its state is impossible, or of another model or batch:
            the first field or leaf that differs is named.
        FileNotFoundError: no such file.
    """
    members = _read(path)
    told = _told(path, members.pop(_MODEL, None))
    found = {_ONCE_PROJECTED.sub(".projected.located.", name): x for name, x in members.items()}
    if accept != "any":
        untold = _untold(told)
        for name, ours in _model(decoder, params).items():
            theirs = told.get(name, None if name == "weights" else untold.get(name, ours))
            accepted = f"{ours!r}, this model's, or another's with accept any"
            require(theirs == ours, f"{path}: {name}", repr(theirs), accepted)
    double = _described(found).get(_LOGITS, "").startswith("float64")
    dtype = jax.dtypes.canonicalize_dtype(np.float64 if double else np.float32)
    target = jax.eval_shape(lambda: start(decoder, batch, dtype))
    expected = _by_path(target)
    strange = sorted(name for name in found if not name.startswith("."))
    for name in strange[:1]:
        accepted = f"those of {_ACCEPTED}"
        require(False, f"{path}: member {name!r}", "such a member", accepted)
    require_same(f"{path}: state", _described(found), _described(expected))
    leaves = {name: found[name] for name in expected}
    _check_values(path, leaves, decoder.cfg.segment_len)
    return jax.tree.unflatten(jax.tree.structure(target), map(jnp.asarray, leaves.values()))


def _by_path(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _described(leaves: dict[str, Any]) -> dict[str, str]:
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in leaves.items()}


def _model(decoder: Decoder | None, params: Any) -> dict[str, Any]:
    """What decides on the meaning of a state: fields of the configuration, and `weights`."""
    fields = {} if decoder is None else dataclasses.asdict(decoder.cfg)
    for name in ("long_term", "compressed"):
        parts = fields.pop(name, None) or {}
        fields |= {f"{name}.{part}": value for part, value in parts.items()}
    model = {name: value for name, value in fields.items() if name not in _IRRELEVANT}
    if params is not None:
        leaves = _by_path(jax.device_get(params))
        model["weights"] = digest_of({path: np.asarray(leaf) for path, leaf in leaves.items()})
    return parse_json(json_text(model), _MODEL)  # lists for tuples, as a file has them


def _read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The members of an .npz file."""
    with reading(path, _ACCEPTED), open(path, "rb") as file:
        require(file.read(4) in _ZIP, str(path), _OTHER, _ACCEPTED)
        file.seek(0)
        try:
            with np.load(file, allow_pickle=False) as members:
                found = {name: np.asanyarray(member) for name, member in members.items()}
        except Exception as error:  # a dozen kinds, by which part is damaged
            damage = " ".join(str(error).split()) or type(error).__name__
            found = f"a damaged one ({damage})"
            raise ValueError(f"{path}: found {found}, accepted: {_ACCEPTED}") from None
    require(any(name.startswith(".") for name in found), str(path), _OTHER, _ACCEPTED)
    return found


def _told(path: str | os.PathLike, member: np.ndarray | None) -> dict[str, Any]:
    """What a file tells of the model, in the form of `_model`; {} in one of version 0.2."""
    if member is None:
        return {}
    name, found = f"{path}: {_MODEL}", f"{member.dtype}{list(member.shape)}"
    require(
        member.dtype == np.uint8 and member.ndim == 1, name, found, "the bytes of a JSON object"
    )
    return parse_json(decode(member.tobytes(), name), name)


def _untold(told: dict[str, Any]) -> dict[str, Any]:
    """What a file's model has in the fields that came after it: the defaults."""
    fields: dict[str, Any] = {}
    kinds = {"": (ModelConfig, "num_layers"), "long_term.": (LongTermConfig, "num_basis")}
    for prefix, (kind, always) in kinds.items():
        if prefix + always in told:
            fields |= {f"{prefix}{field.name}": field.default for field in dataclasses.fields(kind)}
    return parse_json(json_text(fields), _MODEL)


def _check_values(path: str | os.PathLike, leaves: dict[str, np.ndarray], segment_len: int) -> None:
    """Refuse numbers that no state has."""
    seen, most = leaves[".memory.seen"], np.iinfo(np.int32).max
    ranges = {
        ".seen": (0, MAX_SEEN),
        ".position": (0, segment_len - 1),
        ".writes": (0, np.where(seen < MAX_SEEN, seen // segment_len, most)),  # `seen` ends there
        ".salience": (0, np.inf),
        ".ages": (0, np.where(seen < MAX_SEEN, seen, np.inf)[:, None]),
        ".mass": (0, np.inf),
    }
    for name, leaf in leaves.items():
        low, high = ranges.get(name[name.rfind(".") :], (-np.inf, np.inf))
        wrong = leaf[~((low <= leaf) & (leaf <= high) & np.isfinite(leaf))]
        accepted = f"finite numbers from {low} to {np.max(high)}"
        for number in wrong[:1]:
            require(False, f"{path}: state{name}", number, accepted)
