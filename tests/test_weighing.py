"""optim/weighing.py: the weighed losses, and that gradients go through them."""

from __future__ import annotations

import torch

from optim.weighing import Fixed


def test_fixed_factors_weigh_the_losses_that_are_there():
    weigh, loss = Fixed({"a": 2.0, "b": 3.0}), torch.tensor(5.0, requires_grad=True)
    weighed = weigh({"b": loss**2})
    weighed["b"].backward()
    assert weighed == {"b": torch.tensor(75.0)} and loss.grad == 30
