"""The house: who may import whom, no circles, docstrings, and the table of equations in docs/."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = sorted((ROOT / "inf_former_jax").rglob("*.py"))
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.py"))
FILES = LIBRARY + EXPERIMENTS

# What each floor may import of the others; `data.batches` is the one thing of data that is shared.
BELOW = {
    "require": set(),
    "fields": {"require"},
    "files": set(),
    "memory": {"require", "fields"},
    "data": {"require", "fields", "files"},
    "models": {"require", "fields", "files", "memory"},
    "contrib": {"require", "memory", "models"},
    "training": {"require", "fields", "files", "memory", "models", "data.batches"},
    "generate": {"require", "files", "memory", "models"},
    # inf_former_jax/__init__.py
    "": {"memory", "models", "training", "data", "generate"},
}
BELOW["experiments"] = {*BELOW}

# Mathematics knows no Flax, models know no mesh, data runs on the host.
FOREIGN = {
    "memory": {"flax", "optax"},
    "models": {"optax", "jax.sharding", "jax.experimental"},
    "data": {"jax", "flax", "optax"},
}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def floor_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "experiments":
        return "experiments"
    return "" if parts[1] == "__init__" else parts[1]


def imports(path: Path):
    """Full names of what a file imports of this project, wherever in the file."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def allowed(floor: str, imported: str) -> bool:
    top, _, rest = imported.partition(".")
    if top in ("experiments", "tests"):
        return floor == top
    if top != "inf_former_jax" or (floor and rest.split(".")[0] == floor):
        return True
    if any(rest == place or rest.startswith(f"{place}.") for place in BELOW[floor] if place):
        return True
    # `from inf_former_jax import presets`: the package's own front, for experiments only.
    return "" in BELOW[floor]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_downwards(path):
    wrong = [name for name in imports(path) if not allowed(floor_of(path), name)]
    assert not wrong


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_foreign_imports(path):
    foreign = FOREIGN.get(floor_of(path), set())
    wrong = [n for n in imports(path) if any(n == f or n.startswith(f"{f}.") for f in foreign)]
    assert not wrong


def test_every_floor_is_known():
    assert {floor_of(path) for path in FILES} <= BELOW.keys()


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def edges(path: Path) -> set[str]:
    """Modules of this project that a file imports, functions' own imports among them."""
    found = set()
    for name in imports(path):
        package = name.rpartition(".")[0]
        found |= {part for part in (name, package) if part in MODULES}
    return found - {module_of(path)}


GRAPH = {name: edges(path) for name, path in MODULES.items()}


def reached(graph: dict[str, set[str]], start: str) -> set[str]:
    """Everything that can be reached from a node by one edge or more."""
    found, ahead = set(), [start]
    while ahead:
        new = graph.get(ahead.pop(), set()) - found
        found |= new
        ahead += new
    return found


def test_no_import_circles():
    assert not [name for name in GRAPH if name in reached(GRAPH, name)]


def test_no_circles_between_tasks():
    """Packages of experiments, as wholes, import each other one way only."""
    packages: dict[str, set[str]] = {}
    for name, others in GRAPH.items():
        top, _, rest = name.partition(".")
        if top == "experiments":
            own = rest.split(".")[0]
            names = {other.split(".")[1] for other in others if other.startswith("experiments.")}
            packages.setdefault(own, set()).update(names - {own})
    assert not [name for name in packages if name in reached(packages, name)]
    assert not packages["run"], "what all tasks share knows no task"


# Inside a task's package: __main__ → compare and other commands → task → config.
ORDER = {"config": 0, "task": 1}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name_of)
def test_a_task_is_imported_in_one_direction(path):
    name = module_of(path)
    package, _, own = name.rpartition(".")
    for other in GRAPH[name]:
        beside, _, leaf = other.rpartition(".")
        assert leaf != "__main__", f"{other} is a command, nothing to import"
        if beside == package and own in ORDER and leaf in ORDER:
            assert ORDER[leaf] < ORDER[own]


def late_imports(tree: ast.Module):
    """Imports inside functions, and those for type checkers only."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from (n for n in ast.walk(node) if isinstance(n, (ast.Import, ast.ImportFrom)))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield node


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_late_imports_are_of_other_libraries(path):
    """Functions import extras, and what starts slowly: matplotlib, rich, orbax.

    Of this project these are the pictures, a command's own subcommands, and what ends a run early.
    """
    if path.name in ("__main__.py", "cli.py"):
        return
    late = [ast.unparse(node) for node in late_imports(tree_of(path))]
    wrong = ("TYPE_CHECKING", "experiments", "inf_former_jax")
    assert not [
        line for line in late if any(word in line for word in wrong) and not line.endswith("plots")
    ]


# Whoever opens a file outside the door, and what the door is not made for.
OPENING = {
    "inf_former_jax/data/parquet.py": "pyarrow reads parts of a file",
    "inf_former_jax/training/metrics.py": "appends a row at a time",
    "inf_former_jax/models/convert/folder.py": "safetensors maps weights from the disk",
    "inf_former_jax/generate/saved.py": "NumPy reads members of an archive",
    "experiments/run/folders.py": "holds a lock",
    "experiments/run/room.py": "asks the system for its memory",
}


def opens(tree: ast.Module) -> bool:
    """Whether a file calls `open`, or a path's own methods that read or write it."""
    functions = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = {node.id for node in functions if isinstance(node, ast.Name)}
    methods = {
        node.attr
        for node in functions
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) != "files"
    }
    paths = {f"{how}_{what}" for how in ("read", "write") for what in ("text", "bytes")}
    opened = {ast.unparse(node.value) for node in functions if _is_open(node)}
    return "open" in names or bool(methods & paths) or bool(opened - {"block", "decoder"})


def _is_open(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "open"


def test_files_go_through_one_door():
    """Files that open others are known, with the reason."""
    found = {name_of(path) for path in FILES if opens(tree_of(path))}
    assert found == OPENING.keys() | {"inf_former_jax/files.py"}


def undocumented(node: ast.AST, prefix: str = ""):
    """Public functions, classes and methods without a docstring; what is inside one is private."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        # What the language or Flax defines the meaning of needs no words; a model's call does.
        if (child.name.startswith("_") and child.name != "__call__") or child.name == "setup":
            continue
        if ast.get_docstring(child) is None:
            yield prefix + child.name
        if isinstance(child, ast.ClassDef):
            yield from undocumented(child, f"{prefix}{child.name}.")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_docstrings(path):
    tree = tree_of(path)
    assert ast.get_docstring(tree), "the module"
    assert not list(undocumented(tree))


# The table of docs/mathematics.md: | eq. | formula | `module.function` | `tests/file.py` |

PAGE = (ROOT / "docs" / "mathematics.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\|(?:.*)\| `([a-z_.]+\.\w+)` \| `(tests/[^`]+)` \|$", re.MULTILINE)
ROWS = ROW.findall(PAGE)


def test_the_page_has_its_table():
    """Every line that names a test file is a row of the form that is checked below."""
    assert len(ROWS) >= 10
    assert len(ROWS) == len(re.findall(r"^\|.*`tests/.*\|$", PAGE, re.MULTILINE))


@pytest.mark.parametrize(("function", "test"), ROWS, ids=lambda value: value)
def test_row_of_the_table(function, test):
    """The function is where the row says, and the test exists."""
    module, name = function.rsplit(".", 1)
    if not module.startswith("experiments."):
        module = f"inf_former_jax.{module}"
    found = getattr(importlib.import_module(module), name)
    # Dataclasses of Flax and checked functions alike say where they were written.
    assert inspect.unwrap(found).__module__ == module
    path, _, case = test.partition("::")
    assert (ROOT / path).is_file(), test
    source = (ROOT / path).read_text(encoding="utf-8")
    if case:
        assert re.search(rf"^def {case}\(", source, re.MULTILINE), test
