"""training/options.py: what is accepted, and what the refusals say."""

from __future__ import annotations

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training import options
from training.errors import UsageError
from training.options import OptionParser, by_name, positive_float, subset


def parser() -> OptionParser:
    parser = OptionParser(prog="train")
    group = parser.add_argument_group("steps")
    group.add_argument("--batch_size", type=options.positive_int, default=16)
    group.add_argument("--layer", type=options.negative_int)
    group.add_argument("--lr", type=options.positive_float)
    group.add_argument("--name")
    parser.add_argument("--debug", action="store_true")
    return parser


@pytest.mark.parametrize("name", ["--batch_size", "--batch-size"])
def test_underscores_and_hyphens(name):
    assert parser().parse_args([name, "5"]).batch_size == 5
    assert parser().parse_args([f"{name}=5"]).batch_size == 5


def test_values_are_left_alone():
    assert parser().parse_args(["--name", "a-b_c"]).name == "a-b_c"
    assert parser().parse_args(["--name=--a-b"]).name == "--a-b"
    assert parser().parse_args(["--layer", "-2"]).layer == -2


@pytest.mark.parametrize(
    "argv, told",
    [
        (["--batchsize", "5"], "--batchsize: no such option; did you mean --batch_size?"),
        (["--batch", "5"], "--batch: no such option"),  # no abbreviations
        (["--xyzzy"], "--xyzzy: no such option; train --help"),
        (["--lr", "-1"], "--lr: expected a number above 0; found '-1'"),
        (["--lr", "nan"], "--lr: expected a number above 0; found 'nan'"),
        (["--batch_size", "0"], "--batch_size: expected a whole number, 1 or more; found '0'"),
        (["--batch_size", "1.5"], "found '1.5'"),
        (["--batch_size"], "--batch_size: expected one argument"),
        (["stray"], "unrecognized arguments: stray"),
        (["--", "--batch-size"], "unrecognized arguments: -- --batch-size"),
    ],
)
def test_refusals(argv, told):
    with pytest.raises(UsageError) as caught:
        parser().parse_args(argv)
    assert told.removeprefix("unrecognized arguments: -- ") in str(caught.value)
    assert caught.value.exit_code == 2


def test_sys_argv_is_the_default(monkeypatch):
    monkeypatch.setattr("sys.argv", ["train", "--batch-size", "7"])
    assert parser().parse_args().batch_size == 7


def test_help_goes_out_as_ever(capsys):
    with pytest.raises(SystemExit) as caught:
        parser().parse_args(["--help"])
    assert caught.value.code == 0
    assert "--batch_size" in capsys.readouterr().out


RANGES = [
    (options.positive_int, int, lambda n: n >= 1),
    (options.non_negative_int, int, lambda n: n >= 0),
    (options.negative_int, int, lambda n: n <= -1),
    (options.positive_float, float, lambda x: 0 < x < float("inf")),
    (options.non_negative_float, float, lambda x: 0 <= x < float("inf")),
    (options.probability, float, lambda x: 0 <= x <= 1),
    (options.rate, float, lambda x: 0 <= x < 1),
]


@pytest.mark.parametrize("check, kind, fits", RANGES)
@given(number=st.floats() | st.integers() | st.sampled_from([-1, 0, 1, 1e-300, "", "1e", "ten"]))
def test_ranges(check, kind, fits, number):
    text = str(number)
    try:
        expected = kind(text)
    except ValueError:
        expected = None
    if expected is not None and fits(expected):
        value = check(text)
        assert value == expected
        assert type(value) is kind
    else:
        with pytest.raises(argparse.ArgumentTypeError, match=r"expected .*; found"):
            check(text)


def test_subset():
    tasks = subset(("sst", "para", "sts"))
    assert tasks("sts,sst") == ["sst", "sts"]
    for text, told in [("foo", "'foo'"), ("", "''"), ("sst,", "''"), ("sst,sst", "once"), ("ssst", "did you mean sst")]:
        with pytest.raises(argparse.ArgumentTypeError, match=told):
            tasks(text)


def test_by_name():
    factors = by_name(("sst", "para", "sts"), positive_float)
    assert factors("sst=1,sts=0.5") == {"sst": 1.0, "sts": 0.5}
    assert factors("0.25") == {"sst": 0.25, "para": 0.25, "sts": 0.25}
    for text in ("sst", "sst=", "sst=0", "foo=1", "sst=1,sst=2", "sst=1;sts=2", "sst=inf"):
        with pytest.raises(argparse.ArgumentTypeError, match="expected"):
            factors(text)
