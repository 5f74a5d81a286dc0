"""What the fields of a config accept: said once, by their annotations, and checked by one class.

`Annotated[float, Range(0, 1, "[)")]` is a number from 0 to 1, without 1; `Literal` names choices.
The command line shows the same annotations in its help.
"""

import dataclasses
import functools
import math
import numbers
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from inf_former_jax.require import require

_NUMBERS: dict[Any, Any] = {int: numbers.Integral, float: numbers.Real}

#: Where a range without an end of its own ends: positions and ids are int32, numbers float32.
_LARGEST: dict[Any, Any] = {int: 2**31 - 1, float: float(np.finfo(np.float32).max)}


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`; `ends` is "[" where an end belongs to them, else "("."""

    low: float | int = -math.inf
    high: float | int = math.inf
    ends: str = "[]"

    def __contains__(self, number: float | int) -> bool:
        above = number > self.low if self.ends[0] == "(" else number >= self.low
        return above and (number < self.high if self.ends[1] == ")" else number <= self.high)

    def __str__(self) -> str:
        if math.isfinite(self.high):
            return f"in {self.ends[0]}{self.low}, {self.high}{self.ends[1]}"
        sign = ">" if self.ends[0] == "(" else "≥"
        return f"{sign} {self.low}" if math.isfinite(self.low) else ""


@dataclasses.dataclass(frozen=True)
class Required:
    """Marks an option without which a command does nothing; `what` says what it has to be."""

    what: str


_NON_EMPTY = "one or more"
Entry = TypeVar("Entry")
#: A tuple of one or more.
NonEmpty = Annotated[tuple[Entry, ...], _NON_EMPTY]
Count = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]
#: How many examples a figure is of: more of them would take days and tell nothing new.
Sample = Annotated[int, Range(1, 10**6)]
#: How many basis functions a signal has: matrices of N by N are factored in float64 on the host.
Basis = Annotated[int, Range(1, 2**14)]
Positive = Annotated[float, Range(0, ends="(]")]
NonNegative = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1, "()")]
Rate = Annotated[float, Range(0, 1, "[)")]
#: Of JAX's generators, which know the last 32 bits only: a larger one would repeat a smaller one.
Seed = Annotated[int, Range(0, 2**32 - 1)]


class Checked:
    """A dataclass of which only values are constructed whose fields are what they are annotated as.

    Sequences become tuples, and whole numbers in the place of others become floats: equal configs
    are equal as JSON too.

    Raises:
        ValueError: on construction, naming the field.
    """

    def __post_init__(self):
        for name, hint in hints(type(self)).items():
            object.__setattr__(self, name, checked(name, hint, getattr(self, name)))


@functools.cache
def hints(kind: type) -> dict[str, Any]:
    """field → annotation of a dataclass, in order."""
    found = get_type_hints(kind, include_extras=True)
    return {field.name: found[field.name] for field in dataclasses.fields(kind)}


def require_given(config: Any) -> None:
    """Refuse a config without an option that is marked as required."""
    for name, hint in hints(type(config)).items():
        for mark in get_args(hint)[1:]:
            if isinstance(mark, Required):
                require(bool(getattr(config, name)), name, "none", mark.what)


def plain(hint: Any) -> Any:
    """An annotation without what it says beside the type."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


@functools.cache  # asked for with every check
def describe(hint: Any) -> str:
    """What an annotation accepts, in words: "a whole number ≥ 1", "post or pre"."""
    kind, marks = plain(hint), getattr(hint, "__metadata__", ())
    args = get_args(kind)
    if get_origin(kind) is Literal:
        return " or ".join(map(str, args))
    if get_origin(kind) is tuple:
        return f"{_NON_EMPTY if _NON_EMPTY in marks else 'any number'} of: {describe(args[0])}"
    if args:  # a union with None
        return f"{describe(args[0])} or None"
    names: dict[Any, str] = {int: "a whole number", float: "a number", str: "a text"}
    ranges = [str(mark) for mark in marks if isinstance(mark, Range)]
    return " ".join([names.get(kind, f"a {kind.__name__}"), *ranges]).strip()


def checked(name: str, hint: Any, value: Any) -> Any:
    """The value of a field in the form that its annotation says.

    Raises:
        ValueError: it is not accepted.
    """
    kind, marks = plain(hint), getattr(hint, "__metadata__", ())
    args = get_args(kind)
    if get_origin(kind) is tuple:
        require(isinstance(value, list | tuple), name, repr(value), "a tuple")
        require(_NON_EMPTY not in marks or len(value) > 0, name, "none", _NON_EMPTY)
        return tuple(checked(name, args[0], entry) for entry in value)
    if get_origin(kind) is Literal:
        holds = value in args and type(value) in map(type, args)  # True is no 1
        require(holds, name, value, describe(hint))
    elif args:
        return None if value is None else checked(name, args[0], value)
    elif kind in (int, float):
        number = isinstance(value, _NUMBERS[kind]) and not isinstance(value, bool)
        huge = kind is float and isinstance(value, int) and abs(value) >> 1023
        require(number and not huge, name, repr(value), describe(hint))
        value = kind(value)
        for accepted in marks:
            _require_in(name, hint, accepted, value)
    else:
        require(isinstance(value, kind), name, repr(value), describe(hint))
        if kind is str:  # what no file and no tokeniser could take
            half = any("\ud800" <= one <= "\udfff" for one in value)
            require(not half and "\0" not in value, name, repr(value), "UTF-8 without NUL")
    return value


def _require_in(name: str, hint: Any, accepted: Range, value: Any) -> None:
    """Refuse a number outside a range, also one that float32 rounds out of it."""
    require(value in accepted, name, value, describe(hint))
    largest = _LARGEST[type(value)] if math.isinf(accepted.high) else accepted.high
    require(abs(value) <= largest, name, value, f"a number ≤ {largest:.10g}")
    if isinstance(value, float):
        single = float(np.float32(value))
        single = single if abs(single) >= np.finfo(np.float32).tiny else 0.0  # as XLA has it
        require(single in accepted, name, value, f"{describe(hint)} in float32")
