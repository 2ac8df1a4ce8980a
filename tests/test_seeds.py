"""runtime/seeds.py: the same numbers whoever drew first."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from runtime.seeds import generator, seed_of, seeded

NUMBER = st.integers(0, 2**32 - 1)
PLACE = st.tuples(NUMBER, st.text(max_size=5), st.lists(NUMBER, max_size=4).map(tuple))


@given(PLACE, PLACE)
@example((0, "order", (0,)), (0, "order", (0, 0)))
@example((0, "order", ()), (0, "order", (0, 0)))
def test_a_seed_for_each_place(first, second):
    (seed, purpose, position), (other_seed, other_purpose, other_position) = first, second
    same = seed_of(seed, purpose, *position) == seed_of(other_seed, other_purpose, *other_position)
    assert same == (first == second)


def test_the_seeds_do_not_change_with_the_program():
    """A run is resumed by another version of this file: these numbers stay."""
    assert seed_of(0, "dropout") == 4879756607122091382
    assert seed_of(17, "surgery", 3, 5) == 18147734683779047081


def test_what_is_drawn_does_not_depend_on_draws_outside():
    dropout, x = torch.nn.Dropout(0.5), torch.ones(101)
    with seeded(3, "dropout", 5):
        first = dropout(x)
    torch.rand(13)
    before = torch.get_rng_state()
    with seeded(3, "dropout", 5):
        assert torch.equal(dropout(x), first)
    with seeded(3, "dropout", 5):
        assert torch.equal(torch.rand(7), torch.rand(7, generator=generator(3, "dropout", 5)))
    for place in ((3, "dropout", 6), (4, "dropout", 5), (3, "draw", 5)):
        with seeded(*place):
            assert not torch.equal(dropout(x), first)
    with pytest.raises(KeyError), seeded(3, "dropout"):
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)
