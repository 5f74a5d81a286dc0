"""Every command of the pages exists: its module, its preset or subcommand, its options."""

import contextlib
import functools
import importlib
import io
import re
import shlex

import pytest

from tests.docs.pages import BASH, PAGES, ROOT, inline_code, name_of, text_of

#: A page about a measure that was removed, and says so.
REMOVED = ROOT / "docs" / "performance_kernels.md"


def commands(page):
    """`experiments.X` and the arguments of each `python -m experiments.X …` of a page."""
    lines = "\n".join(BASH.findall(text_of(page))).replace("\\\n", " ").splitlines()
    for line in [*lines, *inline_code(page)]:
        found = re.search(r"python -m (experiments\.\w+)(.*)", line)
        if found and "…" not in line:
            yield found[1], tuple(shlex.split(found[2], comments=True))


COMMANDS = sorted({command for page in PAGES if page != REMOVED for command in commands(page)})


@functools.cache
def help_of(module: str, words: tuple[str, ...]) -> str:
    """What a command prints with --help behind its preset or subcommand and its options."""
    try:
        main = importlib.import_module(f"{module}.__main__").main
    except ModuleNotFoundError:
        main = importlib.import_module(module).main

    def printed(word: str) -> str:
        with contextlib.redirect_stdout(io.StringIO()) as text:
            try:
                main([*words, word])
            except SystemExit as stopped:
                assert not stopped.code
        return text.getvalue()

    text = printed("--help")
    return printed("--help-all") if "\n--help-all shows" in text else text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "arguments"),
    COMMANDS,
    ids=lambda value: value if isinstance(value, str) else " ".join(value) or "alone",
)
def test_commands_of_the_pages_exist(module, arguments, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    options = [word.split("=")[0] for word in arguments if word.startswith("--")]
    first = next((i for i, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    words = tuple(word for word in arguments[:first] if word not in ("PRESET", "COMMAND"))
    text = help_of(module, words)
    if options and "\npresets" in text:
        text = help_of(module, ("--seed", "0"))
    missing = [option for option in options if option not in text and option != "--help"]
    assert text.strip() and missing == []


def test_the_readme_lists_every_command():
    """One row each, with its subcommands."""
    rows = re.findall(r"^\| `experiments\.(\w+)[^|]*\|(.*)\|$", text_of(ROOT / "README.md"), re.M)
    folders = {path.parent.name for path in (ROOT / "experiments").glob("*/__main__.py")}
    assert {name for name, _ in rows} == folders | {"generate"}
    for name, text in rows:
        for subcommand in re.findall(r"`([a-z]+)`", text):
            help_of(f"experiments.{name}", (subcommand,))


def test_commands_are_found():
    assert len(COMMANDS) > 30
    assert name_of(PAGES[0]) == "README.md"
