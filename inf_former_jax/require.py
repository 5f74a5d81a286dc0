"""Errors at the door in one form: what it is, what was found, what is accepted."""

import importlib
from typing import Any

import jax


def require(holds: bool, name: str, found: object, accepted: object) -> None:
    """Raise ValueError "name: found X, accepted: Y", one line, unless the condition `holds`."""
    if not holds:
        raise ValueError(" ".join(f"{name}: found {found}, accepted: {accepted}".splitlines()))


def require_at_least(name: str, value: int | float, least: int | float) -> None:
    """Refuse a value below `least`: "name: found 0, accepted: 1 or more"."""
    require(value >= least, name, value, f"{least} or more")


def require_package(package: str, name: str, accepted: str) -> Any:
    """A package of an extra, imported; ValueError "name: the package … is not installed, …"."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError:
        found = f"the package {package.partition('.')[0]} is not installed"
        raise ValueError(f"{name}: {found}, accepted: {accepted}") from None


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """path → shape of every leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}


def require_same(name: str, found: dict[str, Any], accepted: dict[str, Any]) -> None:
    """Refuse two mappings that differ, and name the first path at which they do.

    Raises:
        ValueError: "name + path: found X, accepted: Y".
    """
    for path in sorted(found.keys() | accepted.keys()):
        here, expected = found.get(path, "nothing"), accepted.get(path, "nothing")
        require(here == expected, f"{name}{path}", here, expected)
