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

LARGE = 10**18  # no whole number is as large, in an option or a file


def setting(
    default: Any,
    help: str,
    parse: Callable[[str], Any] = str,
    may_change: bool = False,
    usual: bool = False,
    choices: Sequence[str] = (),
    **word: Any,
) -> Any:
    """A dataclass field that is an option.

    Args: default: said in the help, unless the help says it. parse: text -> value, bool for a flag.
          may_change: whether it may differ when a run goes on. usual: --help shows it; others are in --help all alone.
          choices: all that it may be. word: argparse's `metavar`.
    """
    if type(default) in (str, int, float) and "(default" not in help:
        help += f" (default: {default})"
    word |= {"choices": choices, "metavar": "|".join(choices)} if choices else {}
    word |= {"help": help, **({"action": "store_true"} if parse is bool else {"type": parse})}
    return dataclasses.field(default=default, metadata={"word": word, "may_change": may_change, "usual": usual})


class OptionParser(argparse.ArgumentParser):
    """argparse with `--batch_size` and `--batch-size` alike, no abbreviations, and UsageError instead of an exit."""

    def __init__(self, description: str, add_help: bool = True):
        kind, parts = argparse.RawDescriptionHelpFormatter, description.split("\n\n")  # what is indented stays
        parts = [part if part.startswith(" ") else textwrap.fill(" ".join(part.split()), 79) for part in parts]
        description = "\n\n".join(parts)
        super().__init__(description=description, allow_abbrev=False, formatter_class=kind, add_help=add_help)
        self.rare: list[argparse.Action] = []  # that `--help all` alone shows
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")  # see run_cli

    def add_settings(self, settings: type, groups: Mapping[str, str]) -> None:
        """An option for every setting of a dataclass. groups: of some options, the heading that begins with them."""
        add, self.usage = self.add_argument, "%(prog)s [--OPTION VALUE] ..."
        for field in dataclasses.fields(settings):
            if field.name in groups:
                add = self.add_argument_group(groups[field.name]).add_argument
            if field.metadata:  # absent from the result if not given
                action = add(f"--{field.name}", default=argparse.SUPPRESS, **field.metadata["word"])
                self.rare += [] if field.metadata["usual"] else [action]

    def parse_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None):
        words = list(sys.argv[1:] if args is None else args)
        if self.rare and {"-h", "--help"} & {*words} and "all" not in words:
            self.epilog = f"{len(self.rare)} more options: --help all"
            for action in self.rare:
                action.help = argparse.SUPPRESS
        before_texts = words[: words.index("--")] if "--" in words else words
        for i, word in enumerate(before_texts):
            if word.startswith("--"):
                given, equals, value = word.partition("=")
                name = "--" + given[2:].replace("-", "_")
                if name not in self._option_string_actions:
                    self.no_such_option(given, name)
                words[i] = name + equals + value
                if (equals and not value) or "" in words[i + 1 : i + 2]:
                    self.error(f"{given}: expected a value; found an empty one; give one or leave the option out")
        values, left = super().parse_known_intermixed_args(words, namespace)
        if left:
            message, several = f"expected an option; found {left[0]!r}", words[: words.index(left[0]) + 1]
            if left[0].startswith("-"):
                message += "; a text that begins with - comes after --"
            elif options := [n for n, word in enumerate(several) if word.startswith("--")]:
                option, *together = several[options[-1] :]
                message += f"; several values have commas between: {option} {','.join(together)}"
            else:
                message += f"; {self.prog} --help lists them"
            self.error(message)
        return values

    def no_such_option(self, given: str, name: str) -> NoReturn:
        """With the nearest by its name, or by what its help says."""
        known, words = self._option_string_actions, name[2:].replace("_", " ")
        says = sorted((len(action.help), option) for option, action in known.items() if words in (action.help or ""))
        near = nearest(name, known) or "".join(f"; did you mean {option}?" for _, option in says[:1])
        self.error(f"{given}: no such option; {self.prog} --help all lists every one{near}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices and value not in action.choices:
            expected = f"expected one of {', '.join(action.choices)}"
            raise argparse.ArgumentError(action, f"{expected}; found {value!r}{nearest(value, action.choices)}")

    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "))


def _number(kind: type, fits: Callable[[float], bool], expected: str) -> Callable[[str], Any]:
    """A type of option, whose message names the range."""

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
    """An object by its name in a table, and its settings: "cagrad" or "cagrad:c=0.4,..." -> table["cagrad"](c=0.4).

    Settings are the constructor's keywords, of their defaults' types; args come before them. Raises UsageError.
    """
    name, _, rest = text.partition(":")
    check_name(option, table, name)
    defaults = {key: p.default for key, p in signature(table[name]).parameters.items() if p.default is not p.empty}
    try:
        pairs = [part.partition("=") for part in rest.split(",") if part]
        keys = [key for key, _, _ in pairs]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"expected each setting once; found {key} twice")
            if key not in defaults:
                known = ", ".join(f"{key}={value}" for key, value in defaults.items())
                raise ValueError(f"expected {f'settings among {known}' if known else 'no settings'}; found {key!r}")
        return table[name](*args, **{key: type(defaults[key])(value) for key, _, value in pairs})
    except ValueError as error:
        raise UsageError(f"{option} {name}: {error}") from None


def of_type(value: Any, kind: Any) -> Any:
    """A value that JSON holds, as a dataclass's field of this type, or a dataclass, has it: tuples for lists.

    Raises ValueError for another type and a number out of all reason, KeyError for a field that is missing.
    """
    args = get_args(kind)
    if isinstance(kind, UnionType):
        for each in args:
            with suppress(ValueError):
                return of_type(value, each)
    elif dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return kind(**{field.name: of_type(value[field.name], field.type) for field in dataclasses.fields(kind)})
    elif get_origin(kind) is tuple and isinstance(value, list):
        kinds = args[:1] * len(value) if args[-1] is ... else args
        if len(kinds) == len(value):
            return tuple(map(of_type, value, kinds))
    elif get_origin(kind) is dict and isinstance(value, dict):
        return {key: of_type(each, args[1]) for key, each in value.items()}
    elif kind in (int, float):
        if type(value) in (int, kind) and abs(value) < LARGE:
            return value
    elif type(value) is kind:
        return value
    raise ValueError(f"expected {getattr(kind, '__name__', kind)}; found {value!r:.60}")
