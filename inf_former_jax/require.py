"""Errors at the door, in one form: what it is, what was found, what is accepted."""

from typing import Any

import jax


def require(holds: bool, name: str, found: object, accepted: object) -> None:
    """Raise ValueError in the user's words unless `holds`: what was found, what is accepted."""
    if not holds:
        raise ValueError(f"{name}: found {found}, accepted: {accepted}")


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """path → shape of every leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}


def require_same(name: str, found: dict[str, Any], accepted: dict[str, Any]) -> None:
    """Refuse what differs from what is accepted, naming the first path.

    Raises:
        ValueError: "name + path: found X, accepted: Y".
    """
    for path in sorted(found.keys() | accepted.keys()):
        of_path = (found.get(path, "nothing"), accepted.get(path, "nothing"))
        require(of_path[0] == of_path[1], f"{name}{path}", *of_path)
