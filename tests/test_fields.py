"""What the fields of configs accept, and that all configs say it of every number."""

import dataclasses
import importlib
import math
import pkgutil
from typing import Annotated, Literal, get_args, get_origin

import numpy as np
import pytest

import experiments
import inf_former_jax
from inf_former_jax import fields
from inf_former_jax.fields import Checked, Count, Natural, NonEmpty, Positive, Range, Rate, Seed


@dataclasses.dataclass(frozen=True)
class Inner(Checked):
    width: Positive = 1.0


@dataclasses.dataclass(frozen=True)
class Outer(Checked):
    """One field of every kind."""

    count: Count = 1
    natural: Natural = 0
    seed: Seed = 0
    rate: Rate = 0.0
    free: Annotated[float, Range()] | None = None
    half_open: Annotated[float, Range(0, 1, "(]")] = 1.0
    some: NonEmpty[Count] = (1,)
    any: tuple[Literal["a", "b"], ...] = ()
    choice: Literal["a", "b"] = "a"
    number: Literal[1, 2] = 1
    flag: bool = False
    text: str = ""
    inner: Inner | None = None


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"count": np.int64(3)}, 3),
        ({"count": 2**31 - 1}, 2**31 - 1),
        ({"seed": 2**32 - 1}, 2**32 - 1),
        ({"rate": 0}, 0.0),
        ({"rate": np.float32(0.5)}, 0.5),
        ({"rate": 1 - 2**-24}, 1 - 2**-24),
        ({"free": -1}, -1.0),
        ({"free": None}, None),
        ({"some": [1, 2]}, (1, 2)),
        ({"any": ["a", "b"]}, ("a", "b")),
        ({"inner": Inner(2)}, Inner(2.0)),
    ],
)
def test_values_are_kept_in_one_form(given, kept):
    """Equal configs are equal as JSON, and they can be hashed."""
    (name,), config = given, Outer(**given)
    assert getattr(config, name) == kept and type(getattr(config, name)) is type(kept)
    assert hash(config) == hash(dataclasses.replace(config))


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("count", 0, "a whole number ≥ 1"),
        ("count", True, "a whole number ≥ 1"),
        ("count", 1.0, "a whole number ≥ 1"),
        ("count", "x", "a whole number ≥ 1"),
        ("count", 10**23, "a number ≤ 2147483647"),
        ("natural", -1, "a whole number ≥ 0"),
        ("seed", -1, "a whole number in [0, 4294967295]"),
        ("seed", 2**32, "a whole number in [0, 4294967295]"),
        ("rate", 1.0, "a number in [0, 1)"),
        ("rate", 1 - 2**-26, "a number in [0, 1) in float32"),  # which rounds it to 1
        ("rate", math.nan, "a number in [0, 1)"),
        ("rate", False, "a number in [0, 1)"),
        ("rate", "x", "a number in [0, 1)"),
        ("rate", 10**400, "a number in [0, 1)"),
        ("free", math.inf, "a number ≤ 3.402823466e+38"),
        ("free", -math.inf, "a number ≤ 3.402823466e+38"),
        ("free", math.nan, "a number"),
        ("half_open", 0.0, "a number in (0, 1]"),
        ("half_open", 1e-40, "a number in (0, 1] in float32"),  # which XLA takes for 0
        ("some", (), "one or more"),
        ("some", 1, "a tuple"),
        ("some", (1, 0), "a whole number ≥ 1"),
        ("any", ("a", "c"), "a or b"),
        ("choice", "c", "a or b"),
        ("number", True, "1 or 2"),
        ("flag", 1, "a bool"),
        ("text", 1, "a text"),
        ("text", "caf\udce9", "UTF-8 without NUL"),  # bytes of a command line that are no UTF-8
        ("text", "a\0", "UTF-8 without NUL"),
        ("inner", {}, "a Inner"),
    ],
)
def test_what_no_field_accepts_is_refused_by_name(name, value, accepted):
    with pytest.raises(ValueError) as caught:
        Outer(**{name: value})
    message = str(caught.value)
    assert message.startswith(f"{name}: found ") and message.endswith(f", accepted: {accepted}")


def configs() -> set[type[Checked]]:
    """Every checked dataclass of the library and of the experiments."""
    for package in (inf_former_jax, experiments):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    found, new = set(), {Checked}
    while new:
        new = {kind for base in new for kind in base.__subclasses__()}
        found |= new
    return {kind for kind in found if not kind.__module__.startswith("tests")}


def numbers(hint) -> list:
    """The annotations of numbers inside an annotation."""
    if fields.plain(hint) in (int, float):
        return [hint]
    return [number for part in get_args(hint) for number in numbers(part)]


def test_every_number_of_every_config_has_bounds():
    bounded = 0
    for kind in configs():
        for name, hint in fields.hints(kind).items():
            for number in numbers(hint):
                ranged = get_origin(number) is Annotated and isinstance(get_args(number)[1], Range)
                assert ranged, f"{kind.__name__}.{name}"
                bounded += 1
    assert len(configs()) >= 25 and bounded > 150
