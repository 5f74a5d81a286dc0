"""What config.json says beside a model's own options: the fields for which it has no option."""

import dataclasses
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

from inf_former_jax.memory.compressed import CompressedConfig
from inf_former_jax.memory.config import LongTermConfig
from inf_former_jax.require import require

#: In config.json, fields of `ModelConfig`, and the digest of the weights that it was written with.
OURS = "inf_former"
WEIGHTS = "weights"


def check_ours(options: Mapping[str, Any], where: str) -> None:
    """Refuse what is no object of our fields.

    Raises:
        ValueError: it, or the digest in it, is of another kind.
    """
    ours = options.get(OURS, {})
    require(isinstance(ours, dict), f"{where}: {OURS}", repr(ours), "an object")
    weights = ours.get(WEIGHTS, "")
    require(isinstance(weights, str), f"{where}: {OURS}: {WEIGHTS}", repr(weights), "a text")


def our_fields(options: Mapping[str, Any], known: set[str], where: str) -> dict[str, Any]:
    """The fields of `ModelConfig` that options have under OURS.

    Args:
        known: those that may be there.

    Raises:
        ValueError: another field, or a memory that no model can have.
    """
    fields = {}
    for name, value in options.get(OURS, {}).items():
        if name != WEIGHTS:
            accepted = "a field that the model has no option for"
            require(name in known, f"{where}: {OURS}: {name}", "such a field", accepted)
            fields[name] = _memory(name, value, where)
    return fields


def _memory(name: str, value: Any, where: str) -> Any:
    """A field as `ModelConfig` has it: of memories the configuration. JSON knows no tuples."""
    kind: Any = {"long_term": LongTermConfig, "compressed": CompressedConfig}.get(name)
    if kind is None or value is None:
        return tuple(value) if isinstance(value, list) else value
    place, known = f"{where}: {OURS}: {name}", {field.name for field in dataclasses.fields(kind)}
    require(isinstance(value, dict), place, repr(value), "an object or null")
    for field in value:
        require(field in known, f"{place}.{field}", "such a field", f"those of a {kind.__name__}")
    fields = {field: tuple(v) if isinstance(v, list) else v for field, v in value.items()}
    return made(kind, fields, place)


def made(kind: Callable[..., Any], fields: Mapping[str, Any], place: str) -> Any:
    """A configuration of these fields; what it refuses is named after the place."""
    try:
        return kind(**fields)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
    except TypeError:  # the same, where annotations are checked at run time
        found, accepted = reprlib.repr(dict(fields)), "numbers, true or false, and names"
        raise ValueError(f"{place}: found {found}, accepted: {accepted}") from None


def token_ids(vocab_size: int, **tokens: int | None) -> dict[str, int]:
    """Options such as eos_token_id of the tokens that are given, eos=… and bos=….

    Raises:
        ValueError: a token is no id of the vocabulary.
    """
    for name, token in tokens.items():
        fits = token is None or (type(token) is int and 0 <= token < vocab_size)
        require(fits, name, repr(token), f"an id 0 … {vocab_size - 1}")
    return {f"{name}_token_id": token for name, token in tokens.items() if token is not None}


def same(value: Any, accepted: Any) -> bool:
    """Equal and of the same type: JSON's true is no 1."""
    return type(value) is type(accepted) and value == accepted
