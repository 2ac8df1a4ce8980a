"""training/seeds.py: the same numbers whoever drew first."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.seeds import generator, seed_of, seeded

PLACE = st.tuples(
    st.integers(0, 2**32 - 1), st.text(max_size=5), st.lists(st.integers(0, 2**32 - 1), max_size=4).map(tuple)
)


@given(PLACE, PLACE)
def test_a_seed_for_each_place(first, second):
    (seed, purpose, position), (other_seed, other_purpose, other_position) = first, second
    same = seed_of(seed, purpose, *position) == seed_of(other_seed, other_purpose, *other_position)
    assert same == (first == second)


def test_the_number_of_positions_counts():
    places = [(), (0,), (0, 0), (0, 0, 0), (0, 0, 0, 0), (1,), (1, 0), (0, 1)]
    assert len({seed_of(0, "order", *position) for position in places}) == len(places)


def test_the_seeds_do_not_change_with_the_program():
    """A run is resumed by another version of this file: these numbers stay."""
    assert seed_of(0, "dropout") == 4879756607122091382
    assert seed_of(17, "surgery", 3, 5) == 18147734683779047081


def test_a_fresh_generator_each_time():
    first = torch.rand(7, generator=generator(3, "draw", 11))
    assert torch.equal(first, torch.rand(7, generator=generator(3, "draw", 11)))
    assert not torch.equal(first, torch.rand(7, generator=generator(3, "draw", 12)))
    assert not torch.equal(first, torch.rand(7, generator=generator(4, "draw", 11)))
    assert not torch.equal(first, torch.rand(7, generator=generator(3, "drop", 11)))


def test_dropout_inside_does_not_depend_on_draws_outside():
    dropout, x = torch.nn.Dropout(0.5), torch.ones(101)
    torch.manual_seed(1)
    with seeded(3, "dropout", 5):
        first = dropout(x)
    torch.rand(13)
    with seeded(3, "dropout", 5):
        assert torch.equal(dropout(x), first)
    with seeded(3, "dropout", 6):
        assert not torch.equal(dropout(x), first)


def test_inside_stands_the_generator_of_the_same_place():
    with seeded(3, "dropout", 5):
        inside = torch.rand(7)
    assert torch.equal(inside, torch.rand(7, generator=generator(3, "dropout", 5)))


def test_the_global_generator_is_unchanged_also_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(KeyError), seeded(3, "dropout"):
        torch.rand(7)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_too():
    x = torch.ones(101, device="cuda")
    before = torch.cuda.get_rng_state()
    with seeded(3, "dropout", 5):
        first = torch.nn.functional.dropout(x)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    torch.rand(3, device="cuda")
    with seeded(3, "dropout", 5):
        assert torch.equal(torch.nn.functional.dropout(x), first)
    assert generator(3, "draw", device="cuda").device.type == "cuda"
