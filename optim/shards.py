"""Each rank has a share of the parameters' elements, as in ZeRO-1 (Rajbhandari et al. 2020): for these it sums the
gradients, holds AdamW's moments and moves the weights. The weights themselves are whole on every rank.

Letters: N ranks; S elements in a rank's share; T gradients of each parameter.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from optim.adamw import MOMENTS
from optim.split_rules import sparse_rows
from runtime.ranks import World


class Shards:
    """Dense parameters laid end to end and cut into N equal parts, wherever that cuts a parameter.

    Sparse ones (an embedding's, whose gradients are rows) are not cut, and every rank has all their moments: a step
    has gradients of a few hundred rows, which all ranks send each other.

    pieces: what this rank's optimiser moves, by parameter: a flat view of the part in its share; for a sparse
            parameter, and in a world of one, the parameter itself.
    """

    def __init__(self, parameters: Sequence[Tensor], sparse: Iterable[Tensor], world: World):
        self.world, self.parameters, self.sparse = world, parameters, set(sparse)
        self.example = next(iter(parameters), torch.empty(0))  # has their dtype and device
        self.dense = [parameter for parameter in parameters if parameter not in self.sparse]
        self.sizes = [parameter.numel() for parameter in self.dense]
        self.share = -(-sum(self.sizes) // world.size)  # S
        self.pieces = {parameter: parameter for parameter in parameters if parameter in self.sparse}
        self.slices: dict[Tensor, slice] = {}  # where a dense parameter's piece lies in this rank's S
        self.parts: dict[Tensor, slice] = {}  # and in the parameter
        if world.size > 1:
            self.weights = self.new()  # (N S,): from here on the dense parameters are views of it, so no copy is sent
            for parameter, part in self.split(self.weights).items():
                parameter.data = part.copy_(parameter.detach())
        start = -world.rank * self.share  # where the parameter starts, seen from this rank's S
        for parameter, size in zip(self.dense, self.sizes, strict=True):
            low, high = max(start, 0), min(start + size, self.share)
            if low < high:
                self.slices[parameter] = slice(low, high)
                self.parts[parameter] = part = slice(low - start, high - start)
                self.pieces[parameter] = parameter.detach().view(-1)[part] if world.size > 1 else parameter
            start += size

    @cached_property
    def sum_buffer(self) -> Tensor:
        """(N S,): a buffer to sum gradients in."""
        return self.new()

    def new(self, *sizes: int) -> Tensor:
        """(*sizes, N S), zeros."""
        return self.example.new_zeros(*sizes, self.world.size * self.share)

    def split(self, x: Tensor) -> dict[Tensor, Tensor]:
        """(..., N S) -> each dense parameter's part of it, (..., its shape)"""
        parts = zip(self.dense, x[..., : sum(self.sizes)].split(self.sizes, dim=-1), strict=True)
        return {parameter: part.view(*x.shape[:-1], *parameter.shape) for parameter, part in parts}

    def reached(self, flags: Iterable[bool]) -> list[Tensor]:
        """The parameters whose flag is set on some rank. flags: one for each parameter, in their order."""
        by_rank = self.world.gather([*flags])
        return [parameter for parameter, *flags in zip(self.parameters, *by_rank, strict=True) if any(flags)]

    def give(self, gradient: Tensor, reached: Sequence[Tensor]) -> None:
        """Write .grad of dense parameters' pieces: views of gradient, (S,); None where nothing was reached."""
        reached = set(reached)
        for parameter, place in self.slices.items():
            piece = self.pieces[parameter]
            piece.grad = gradient[place].view_as(piece) if parameter in reached else None

    def sum_gradients(self) -> None:
        """Sum .grad of the parameters over the ranks, into .grad of the pieces."""
        if self.world.size == 1:
            return
        parts, reached = self.split(self.sum_buffer.zero_()), self.reached(p.grad is not None for p in self.parameters)
        for parameter in reached:
            gradient, parameter.grad = parameter.grad, None
            if parameter in self.sparse:
                rows = (None, None) if gradient is None else (gradient._indices()[0], gradient._values())
                indices, values = map(self.world.gather_rows, rows)
                parameter.grad = sparse_rows(indices, values, parameter.shape)
            elif gradient is not None:
                parts[parameter].copy_(gradient.to_dense())
        self.give(self.world.reduce_scatter(self.sum_buffer[None])[0], reached)

    @torch.no_grad()
    def gather_weights(self) -> None:
        """Get from the other ranks the pieces that they have moved."""
        if self.world.size > 1:
            self.world.all_gather(self.weights)

    def whole(self, pieces: Mapping[Tensor, Tensor]) -> dict[Tensor, Tensor]:
        """By dense parameter a tensor of its shape, from all ranks' pieces of it; zeros where there is no piece."""
        joined = self.new()
        own = joined.view(self.world.size, -1)[self.world.rank]
        for parameter, place in self.slices.items():
            if parameter in pieces:
                own[place] = pieces[parameter]
        return self.split(self.world.all_gather(joined))

    def whole_state(self, states: Mapping[Tensor, dict]) -> dict[Tensor, dict]:
        """AdamW's state of each parameter, put together from the ranks' states of its pieces."""
        own = {parameter: states[piece] for parameter, piece in self.pieces.items() if states.get(piece)}
        if self.world.size == 1:
            return own
        steps = self.world.gather([own.get(parameter, {}).get("step") for parameter in self.parameters])
        moments = {kind: self.whole({p: state[kind] for p, state in own.items()}) for kind in MOMENTS}
        for parameter, *by_rank in zip(self.parameters, *steps, strict=True):
            if any(by_rank) and parameter not in self.sparse:
                whole_moments = {kind: parts[parameter] for kind, parts in moments.items()}
                own[parameter] = {"step": next(filter(None, by_rank)), **whole_moments}
        return own

    def state_of_piece(self, parameter: Tensor, state: dict) -> dict:
        """A parameter's state -> the state of its piece: the inverse of whole_state."""
        if parameter in self.sparse:
            return state
        part, piece = self.parts[parameter], self.pieces[parameter]
        return {key: x.reshape(-1)[part].view_as(piece) if key in MOMENTS else x for key, x in state.items()}
