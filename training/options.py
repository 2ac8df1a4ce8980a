"""Command-line options: a parser that helps, and the types of arguments, whose messages name the range."""

from __future__ import annotations

import argparse
import difflib
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from training.errors import UsageError


class OptionParser(argparse.ArgumentParser):
    """argparse with `--batch_size` and `--batch-size` alike, no abbreviations, and UsageError instead of an exit.

    Options are defined with underscores. An option that is not known is answered with the nearest one.
    """

    def __init__(self, **settings: Any):
        super().__init__(allow_abbrev=False, **settings)

    def parse_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None):
        given = list(sys.argv[1:] if args is None else args)
        end = given.index("--") if "--" in given else len(given)
        return super().parse_args([self._known(word) for word in given[:end]] + given[end:], namespace)

    def _known(self, word: str) -> str:
        """The word, an option's name as it was defined."""
        if not word.startswith("--"):
            return word
        name, equals, value = word.partition("=")
        name = "--" + name[2:].replace("-", "_")
        if name not in self._option_string_actions:
            self.error(f"{word.partition('=')[0]}: no such option{nearest(name, self._option_string_actions)}")
        return name + equals + value

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message.removeprefix('argument ')}; {self.prog} --help lists every option")


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean X?` where one of the names is like it, else nothing."""
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _number(kind: type, fits: Callable[[float], bool], expected: str) -> Callable[[str], Any]:
    """An argparse type: a finite number that fits."""

    def check(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not abs(value) < math.inf or not fits(value):
            raise argparse.ArgumentTypeError(f"expected {expected}; found {text!r}")
        return value

    return check


positive_int = _number(int, lambda n: n >= 1, "a whole number, 1 or more")
non_negative_int = _number(int, lambda n: n >= 0, "a whole number, 0 or more")
negative_int = _number(int, lambda n: n <= -1, "a whole number, -1 or less")
positive_float = _number(float, lambda x: x > 0, "a number above 0")
non_negative_float = _number(float, lambda x: x >= 0, "a number, 0 or more")
probability = _number(float, lambda x: 0 <= x <= 1, "a number in [0, 1]")
rate = _number(float, lambda x: 0 <= x < 1, "a number in [0, 1)")


def subset(allowed: Sequence[str]) -> Callable[[str], list[str]]:
    """An argparse type: `para,sts` -> ["sts", "para"], in the order of `allowed`, each name once, one at least."""

    def check(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in allowed:
                found = f"{name!r}{nearest(name, allowed)}"
                raise argparse.ArgumentTypeError(f"expected some of {','.join(allowed)}; found {found}")
        if len(names) > len(set(names)):
            raise argparse.ArgumentTypeError(f"expected each name once; found {text!r}")
        return [name for name in allowed if name in names]

    return check


def by_name(allowed: Sequence[str], kind: Callable[[str], Any]) -> Callable[[str], dict[str, Any]]:
    """An argparse type: `sst=1,sts=4` -> {"sst": kind("1"), "sts": kind("4")}, each name once; or one value for all."""

    def check(text: str) -> dict[str, Any]:
        if "=" not in text:
            return dict.fromkeys(allowed, kind(text))
        pairs = [part.partition("=") for part in text.split(",")]
        subset(allowed)(",".join(name for name, _, _ in pairs))
        return {name: kind(value) for name, _, value in pairs}

    return check
