"""Settings, declared once: a field `lr: float = setting(1e-4, "peak", positive)` is the option --lr too."""

import argparse
import dataclasses
import math
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from inspect import signature
from types import UnionType
from typing import Any, NoReturn, get_args, get_origin

from runtime.errors import UsageError, check_name, nearest

LARGE = 10**18  # numbers in files and whole numbers in options are smaller


def setting(
    default: Any,
    help: str,
    parse: Callable[[str], Any] = str,
    may_change: bool = False,
    usual: bool = False,
    choices: Sequence[str] = (),
    **more: Any,
) -> Any:
    """A dataclass field that is an option.

    Args: default: added to the help, unless the help names it. parse: text -> value, bool for a flag.
          may_change: whether it may differ in a resumed run. usual: --help shows it; --help all shows the others too.
          choices: all allowed values. more: others of `add_argument`, `metavar` say.
    """
    if type(default) in (str, int, float) and "(default" not in help:
        help += f" (default: {default})"
    words = more | {"help": help, **({"action": "store_true"} if parse is bool else {"type": parse})}
    words |= {"choices": choices, "metavar": "|".join(choices)} if choices else {}
    return dataclasses.field(default=default, metadata={"argparse": words, "may_change": may_change, "usual": usual})


class OptionParser(argparse.ArgumentParser):
    """argparse with `--batch_size` and `--batch-size` alike, no abbreviations, and UsageError instead of an exit."""

    def __init__(self, description: str, add_help: bool = True):
        kind, parts = argparse.RawDescriptionHelpFormatter, description.split("\n\n")  # indented parts stay
        parts = [part if part.startswith(" ") else textwrap.fill(" ".join(part.split()), 79) for part in parts]
        description = "\n\n".join(parts)
        super().__init__(description=description, allow_abbrev=False, formatter_class=kind, add_help=add_help)
        self.rare: list[argparse.Action] = []  # only `--help all` shows them
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")  # see run_cli

    def add_settings(self, settings: type, groups: Mapping[str, str]) -> None:
        """Add an option for every setting of a dataclass. groups: first option of a group -> the group's heading"""
        add, self.usage = self.add_argument, "%(prog)s [--OPTION VALUE] ..."
        for field in dataclasses.fields(settings):
            if field.name in groups:
                add = self.add_argument_group(groups[field.name]).add_argument
            if field.metadata:  # absent from the result if not given
                action = add(f"--{field.name}", default=argparse.SUPPRESS, **field.metadata["argparse"])
                self.rare += [] if field.metadata["usual"] else [action]

    def parse_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None):
        words = list(sys.argv[1:] if args is None else args)
        for word in words:
            try:
                word.encode()
            except UnicodeEncodeError:
                self.error(f"expected text in UTF-8; found {word!r}; correct the text, or rename the file")
        if self.rare and {"-h", "--help"} & {*words} and "all" not in words:
            self.epilog = f"{len(self.rare)} more options: --help all"
            for action in self.rare:
                action.help = argparse.SUPPRESS
        before_texts = words[: words.index("--")] if "--" in words else words
        for i, word in enumerate(before_texts):
            if word.startswith("--"):
                typed, equals, value = word.partition("=")
                name = "--" + typed[2:].replace("-", "_")
                if name not in self._option_string_actions:
                    self.no_such_option(typed, name)
                words[i] = name + equals + value
                if (equals and not value) or "" in words[i + 1 : i + 2]:
                    self.error(f"{typed}: expected a value; found an empty one; give one or leave the option out")
        values, extra = super().parse_known_intermixed_args(words, namespace)
        if extra:
            message, before = f"expected an option; found {extra[0]!r}", words[: words.index(extra[0]) + 1]
            if extra[0].startswith("-"):
                message += "; a text that begins with - comes after --"
            elif options := [n for n, word in enumerate(before) if word.startswith("--")]:
                option, *its_values = before[options[-1] :]
                message += f"; several values have commas between: {option} {','.join(its_values)}"
            else:
                message += f"; {self.prog} --help lists them"
            self.error(message)
        return values

    def no_such_option(self, typed: str, name: str) -> NoReturn:
        """Raise UsageError with the options of the nearest names, else with one whose help has the words of `name`."""
        known, words = self._option_string_actions, name[2:].replace("_", " ")
        by_help = sorted((len(action.help), option) for option, action in known.items() if words in (action.help or ""))
        near = nearest(name, known) or "".join(f"; did you mean {option}?" for _, option in by_help[:1])
        self.error(f"{typed}: no such option; {self.prog} --help all lists every one{near}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices and value not in action.choices:
            expected = f"expected one of {', '.join(action.choices)}"
            raise argparse.ArgumentError(action, f"{expected}; found {value!r}{nearest(value, action.choices)}")

    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "))


def _number(kind: type, fits: Callable[[float], bool], expected: str) -> Callable[[str], Any]:
    """A parser of numbers for `setting`. expected: the range, for its error"""

    def check(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        too_large = kind is int and abs(value) >= LARGE
        if not abs(value) < math.inf or not fits(value) or too_large:
            digits = ", of 18 digits at most" * too_large
            raise argparse.ArgumentTypeError(f"expected {expected}{digits}; found {text!r:.99}")
        return value

    return check


positive_int = _number(int, lambda n: n >= 1, "a whole number, 1 or more")
non_negative_int = _number(int, lambda n: n >= 0, "a whole number, 0 or more")
negative_int = _number(int, lambda n: n <= -1, "a whole number, -1 or less")
positive = _number(float, lambda x: x > 0, "a number above 0")
non_negative = _number(float, lambda x: x >= 0, "a number, 0 or more")
probability = _number(float, lambda x: 0 <= x <= 1, "a number in [0, 1]")
rate = _number(float, lambda x: 0 <= x < 1, "a number in [0, 1)")


def built(option: str, table: Mapping[str, type], text: str, *args: Any) -> Any:
    """Build an object from its name in a table and its settings: "cagrad:c=0.4,..." -> table["cagrad"](c=0.4, ...).

    Settings are the constructor's keywords, with the types of their defaults; args: passed first. Raises UsageError.
    """
    name, _, rest = text.partition(":")
    check_name(option, table, name)
    defaults = {key: p.default for key, p in signature(table[name]).parameters.items() if p.default is not p.empty}
    try:
        values = {}
        for key, _, value in (part.partition("=") for part in rest.split(",") if part):
            if key in values:
                raise ValueError(f"expected each setting once; found {key} twice")
            if key not in defaults:
                known = ", ".join(f"{key}={value}" for key, value in defaults.items())
                raise ValueError(f"expected {f'settings among {known}' if known else 'no settings'}; found {key!r}")
            kind = type(defaults[key])
            try:
                values[key] = kind(value)
            except ValueError:
                raise ValueError(f"{key}: expected a {'whole ' * (kind is int)}number; found {value!r}") from None
        return table[name](*args, **values)
    except ValueError as error:
        raise UsageError(f"{option} {name}: {error}") from None


def of_type(value: Any, kind: Any) -> Any:
    """Convert a JSON value to the type of a dataclass's field, or to a dataclass; lists become tuples.

    Raises: ValueError for another type and for a number of LARGE or more, KeyError for a missing field.
    """
    args = get_args(kind)
    if isinstance(kind, UnionType):
        for member in args:
            with suppress(ValueError):
                return of_type(value, member)
    elif dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return kind(**{field.name: of_type(value[field.name], field.type) for field in dataclasses.fields(kind)})
    elif get_origin(kind) is tuple and isinstance(value, list):
        kinds = args[:1] * len(value) if args[-1] is ... else args
        if len(kinds) == len(value):
            return tuple(map(of_type, value, kinds))
    elif get_origin(kind) is dict and isinstance(value, dict):
        return {key: of_type(item, args[1]) for key, item in value.items()}
    elif kind in (int, float):
        if type(value) in (int, kind) and abs(value) < LARGE:
            return value
    elif type(value) is kind:
        return value
    raise ValueError(f"expected {getattr(kind, '__name__', kind)}; found {value!r:.60}")
