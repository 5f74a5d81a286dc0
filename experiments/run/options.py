"""Options from dataclasses: every field is one, such as `--model.long-term.tau 0.9`.

What a field accepts is its annotation (`inf_former_jax.fields`), what it is for the text below it.
"""

import argparse
import ast
import dataclasses
import difflib
import functools
import inspect
import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin

from inf_former_jax.fields import Checked, Required, describe, hints, plain, require_given
from inf_former_jax.require import require

Options = TypeVar("Options", bound=Checked)

#: What asks for help: the usual options in a line each, or all of them with their whole texts.
HELP, HELP_ALL = ("-h", "--help"), "--help-all"

#: Options that --help leaves out where they have their class's default.
RARE = frozenset(
    """
    model.num_kv_heads model.norm model.norm_kind model.norm_epsilon model.final_norm model.position
    model.max_position model.rope_theta model.activation model.attention_bias model.tied
    model.scale_embedding model.sinks model.long_term_layers model.cell_distance
    model.cells_by_age model.long_term.unit_writes optim.trained model.inner_dropout
    model.attention_dropout model.same_length model.clamp_len model.query_chunk
    model.fused_attention model.fused_by model.remat model.long_term.padding
    model.long_term.locations model.long_term.bins model.long_term.prior_scale
    model.long_term.prior_mean model.long_term.gate model.long_term.power model.long_term.horizon
    model.long_term.max_operator_mib model.long_term.read model.long_term.content_heads
    model.long_term.cells model.long_term.temperature model.long_term.learn_temperature
    model.long_term.learn_worth
    model.long_term.age_bias model.long_term.turn_queries model.long_term.unit_cells
    model.long_term.projections model.long_term.joined optim.b1 optim.b2
    optim.skip_nonfinite checkpoint.minutes
    objective.reconstruction_weight objective.segments_at_once layout.marks
    keep_lower mesh_fsdp
    hosts.coordinator hosts.processes hosts.process hosts.timeout hosts.heartbeat
    """.split()  # noqa: SIM905
)


#: Fields of a model that given parameters (`init_from`) decide: sizes, and what is computed with
#: them. All else (segments, memory, dropout) is the run's own.
GIVEN = ("vocab_size", "num_layers", "num_heads", "num_kv_heads", "head_dim", "d_model", "d_inner")
GIVEN += ("norm", "norm_kind", "norm_epsilon", "final_norm", "activation", "attention_bias")
GIVEN += ("position", "max_position", "rope_theta", "tied", "scale_embedding")


class Option(NamedTuple):
    """A field of a config, or of a config inside it."""

    path: tuple[str, ...]
    hint: Any
    value: Any
    text: str
    rare: bool

    @property
    def name(self) -> str:
        """As errors have it: `model.long_term.tau`."""
        return ".".join(self.path)

    def flag(self, no: str = "") -> str:
        """As a command line has it; `no-` switches it off."""
        return "--" + ".".join((*self.path[:-1], no + self.path[-1])).replace("_", "-")


def offered(config: Any, path: tuple[str, ...] = (), taken: bool = False) -> Iterator[Option]:
    """The options of a config: its own fields, then those of each config inside it.

    Args:
        taken: the architecture is that of given parameters, so that nobody changes it.
    """
    taken |= getattr(getattr(config, "optim", None), "trained", "all") == "memory"
    texts, inner = _texts(type(config)), []
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for name, hint in hints(type(config)).items():
        value, place = getattr(config, name), (*path, name)
        if dataclasses.is_dataclass(value):
            inner.append((value, place))
        elif value is not None or not _is_config(hint):
            rare = ".".join(place) in RARE and value == defaults[name]
            rare |= taken and len(place) == 2 and place[0] == "model" and name in GIVEN
            yield Option(place, hint, value, texts.get(name, ""), rare)
    for value, place in inner:
        yield from offered(value, place, taken)


def _is_config(hint: Any) -> bool:
    """Whether an annotation is of a config or None."""
    return any(isinstance(kind, type) and issubclass(kind, Checked) for kind in get_args(hint))


@functools.cache
def _texts(kind: type) -> dict[str, str]:
    """field → the text below it, of a class and of those that it extends."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for field, text in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                assert isinstance(field.target, ast.Name) and isinstance(text.value, ast.Constant)
                found[field.target.id] = inspect.cleandoc(str(text.value.value))
    return found


def applied(config: Options, argv: Sequence[str]) -> Options:
    """The config with the options of a command line.

    Raises:
        ValueError: an option that is not there, or a value that is not accepted.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    # Also -1e-3 and -inf are values, not options (Python 3.14 knows the former).
    parser._negative_number_matcher = re.compile(r"-(\d|\.\d|inf|nan)")
    flags: list[str] = []
    for option in offered(config):
        for no in ("", "no-") if option.hint is bool else ("",):
            flags.append(option.flag(no))
            names = dict.fromkeys((flags[-1], "--" + flags[-1][2:].replace("-", "_")))
            parser.add_argument(*names, action=_Set, option=option, on=not no)
    given, rest = parser.parse_known_args(argv)
    if rest:
        flag = rest[0].partition("=")[0]
        near = difflib.get_close_matches(flag, flags, 1, cutoff=0.8)
        accepted = " or ".join([*near, f"what {HELP_ALL} shows"])
        raise ValueError(f"option: found {flag}, accepted: {accepted}")
    new = _replaced(config, vars(given))
    require_given(new)
    return new


class _Set(argparse.Action):
    """Puts the value of an option where a config has it: {"model": {"long_term": {"tau": .9}}}.

    It takes all words that follow. So whatever is wrong with them is a ValueError of `_read`, which
    argparse lets through.
    """

    def __init__(self, option_strings: Sequence[str], dest: str, option: Option, on: bool):
        super().__init__(option_strings, dest, nargs="*", default=argparse.SUPPRESS)
        self.option, self.on = option, on

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        place = vars(namespace)
        for name in self.option.path[:-1]:
            place = place.setdefault(name, {})
        place[self.option.path[-1]] = _read(self.option, values, self.on)


def _read(option: Option, words: Sequence[str], on: bool) -> Any:
    """The value that the words of an option spell; `on` is that of a switch."""
    hint = plain(option.hint)
    if get_origin(hint) is tuple:
        return tuple(_spelt(option.name, get_args(hint)[0], word) for word in words)
    said = " ".join(words)
    if hint is bool:
        require(not words, option.name, said, "no value")
        return on
    require(len(words) == 1, option.name, said or "no value", describe(option.hint))
    return _spelt(option.name, option.hint, words[0])


def _spelt(name: str, hint: Any, word: str) -> Any:
    """The number, text, choice or None that a word spells."""
    kind = plain(hint)
    if type(None) in get_args(kind):
        return None if word == "None" else _spelt(name, get_args(kind)[0], word)
    if get_origin(kind) is Literal:
        choices = {str(choice): choice for choice in get_args(kind)}
        require(word in choices, name, word, describe(hint))
        return choices[word]
    try:
        if kind in (int, float) and not re.fullmatch(r"[-+.\w]+", word.replace("_", " "), re.ASCII):
            raise ValueError  # Python reads digits of every alphabet, and 1_0 as 10
        return kind(word)
    except ValueError:
        found = textwrap.shorten(word, 80) or repr(word)
        raise ValueError(f"{name}: found {found}, accepted: {describe(hint)}") from None


def _replaced(config: Any, changes: dict[str, Any], prefix: str = "") -> Any:
    """A config with changes, which may be changes of configs inside it."""
    new = {
        name: _replaced(getattr(config, name), value, f"{prefix}{name}.")
        if isinstance(value, dict)
        else value
        for name, value in changes.items()
    }
    try:
        return dataclasses.replace(config, **new)
    except ValueError as error:
        raise ValueError(f"{prefix}{error}") from None


def help_text(program: str, description: str | None, config: Any, whole: bool = False) -> str:
    """What --help prints, or with `whole` what --help-all prints."""
    width = max(80, shutil.get_terminal_size().columns)
    options = list(offered(config))
    left_out = [option for option in options if option.rare and not whole]
    lines, group = [f"usage: {program} [--options]", "", *(description or "").splitlines()], None
    for option in options:
        if option in left_out:
            continue
        if option.path[:-1] != group:
            group = option.path[:-1]
            lines += ["", ".".join(group) or "options"]
        lines += _lines(option, width, whole)
    more = f"{len(left_out)} more options that are seldom changed, and " if left_out else ""
    return "\n".join([*lines, "", *([] if whole else [f"{HELP_ALL} shows {more}whole texts."])])


def _lines(option: Option, width: int, whole: bool) -> list[str]:
    """An option with its value, what is accepted, and what it is for."""
    flag, text = option.flag(), " ".join(option.text.split())
    if option.hint is bool and option.value:
        flag, text = option.flag("no-"), f"Not: {text}"
    elif option.hint is not bool:
        required = any(isinstance(mark, Required) for mark in get_args(option.hint)[1:])
        value = option.value if isinstance(option.value, tuple) else (option.value,)
        flag += " (required)" if required else " " + " ".join(str(v) or '""' for v in value)
        text = "; ".join(filter(None, [_short(option.hint), text]))
    if whole:
        inside = textwrap.wrap(text, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
        return [f"  {flag}", *inside]
    flag = f"  {textwrap.shorten(flag, width - 30, placeholder=' …'):<34} "
    return [(flag + textwrap.shorten(text, width - len(flag), placeholder=" …")).rstrip()]


def _short(hint: Any) -> str:
    """What a field accepts, in a few characters; nothing for any text."""
    words = re.sub("a (whole )?number ?|(any number of: )?a text", "", describe(hint))
    return words.removesuffix(" of: ")
