"""Parameters of which each rank holds a share, as in ZeRO-1 (Rajbhandari et al. 2020): its columns of the gradients,
its part of AdamW's moments. The weights themselves are whole on every rank.

Letters: N ranks; S elements in a rank's share; T gradients of each parameter.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from optim.split_rules import sparse_rows
from runtime.ranks import World

MOMENTS = ("exp_avg", "exp_avg_sq")


class Shards:
    """Dense parameters laid end to end and cut into N equal parts, wherever that cuts a parameter.

    Sparse ones (an embedding's, whose gradients are rows) are whole on every rank, and so are their moments: a step
    names a few hundred rows, which all ranks tell each other.

    pieces: of each parameter what this rank's optimiser moves: a flat view of what lies in its share; in a world of
            one, and of a sparse parameter, the parameter itself.
    """

    def __init__(self, parameters: Sequence[Tensor], sparse: Iterable[Tensor], world: World):
        self.world, self.parameters, self.sparse = world, parameters, set(sparse)
        self.example = next(iter(parameters), torch.empty(0))  # of their type and device
        self.sizes = [0 if parameter in self.sparse else parameter.numel() for parameter in parameters]
        self.share = -(-sum(self.sizes) // world.size)  # S
        self.pieces: dict[Tensor, Tensor] = {}
        self.places: dict[Tensor, slice] = {}  # of a dense parameter's piece, in this rank's S
        self.parts: dict[Tensor, slice] = {}  # and in the parameter
        start = -world.rank * self.share  # of the parameter, in this rank's S
        for parameter, size in zip(parameters, self.sizes, strict=True):
            low, high = max(start, 0), min(start + size, self.share)
            if low < high:
                self.places[parameter], self.parts[parameter] = slice(low, high), slice(low - start, high - start)
                self.pieces[parameter] = parameter.detach().view(-1)[self.parts[parameter]]
            if parameter in self.sparse or world.size == 1:
                self.pieces[parameter] = parameter
            start += size
        self.row = self.new(1)[0] if world.size > 1 else None  # (N S,): to sum gradients in, then to unite weights in

    def new(self, *sizes: int) -> Tensor:
        """(*sizes, N S), zeros."""
        return self.example.new_zeros(*sizes, self.world.size * self.share)

    def split(self, x: Tensor) -> dict[Tensor, Tensor]:
        """(..., N S) -> of each dense parameter its own part, (..., its shape); of a sparse one (..., 0)"""
        shapes = [(0,) if parameter in self.sparse else parameter.shape for parameter in self.parameters]
        parts = x[..., : sum(self.sizes)].split(self.sizes, dim=-1)
        views = [part.view(*x.shape[:-1], *shape) for part, shape in zip(parts, shapes, strict=True)]
        return dict(zip(self.parameters, views, strict=True))

    def reached(self, flags: Iterable[bool]) -> list[Tensor]:
        """The parameters whose flag is set on some rank. flags: in their order."""
        told = zip(*self.world.gather([*flags]), strict=True)
        return [parameter for parameter, of_ranks in zip(self.parameters, told, strict=True) if any(of_ranks)]

    def give(self, gradient: Tensor, reached: Sequence[Tensor]) -> None:
        """Write .grad of dense parameters' pieces: views of gradient, (S,); None where nothing was reached."""
        reached = set(reached)
        for parameter, place in self.places.items():
            piece = self.pieces[parameter]
            piece.grad = gradient[place].view_as(piece) if parameter in reached else None

    def sum_gradients(self) -> None:
        """From this rank's own gradients, .grad of the parameters, to the sum over all ranks, .grad of the pieces."""
        if self.world.size == 1:
            return
        parts, reached = self.split(self.row.zero_()), self.reached(p.grad is not None for p in self.parameters)
        for parameter in reached:
            gradient, parameter.grad = parameter.grad, None
            if parameter in self.sparse:
                told = (None, None) if gradient is None else (gradient._indices()[0], gradient._values())
                indices, values = map(self.world.join_rows, told)
                parameter.grad = sparse_rows(indices, values, parameter.shape)
            elif gradient is not None:
                parts[parameter].copy_(gradient.to_dense())
        self.give(self.world.scatter(self.row[None])[0], reached)

    @torch.no_grad()
    def unite_weights(self) -> None:
        """Make each parameter whole again, of the pieces that the ranks have moved. Gradients of pieces are used up."""
        if self.world.size > 1:
            for parameter, whole in self.split(self._united(self.pieces)).items():
                if parameter not in self.sparse:
                    parameter.copy_(whole)

    def _united(self, pieces: Mapping[Tensor, Tensor]) -> Tensor:
        """All ranks' pieces of the dense parameters, end to end, (N S,): the buffer `row`, so clone it to keep it."""
        own = self.row.zero_().view(self.world.size, -1)[self.world.rank]
        for parameter, place in self.places.items():
            if parameter in pieces:
                own[place] = pieces[parameter]
        return self.world.unite(self.row)

    def whole_state(self, states: Mapping[Tensor, dict]) -> dict[Tensor, dict]:
        """By parameter AdamW's state, of the states of all ranks' pieces."""
        own = {parameter: states[piece] for parameter, piece in self.pieces.items() if states.get(piece)}
        if self.world.size == 1:
            return own
        steps = self.world.gather([own.get(parameter, {}).get("step") for parameter in self.parameters])
        moments = {
            kind: self.split(self._united({p: state[kind] for p, state in own.items()}).clone()) for kind in MOMENTS
        }
        for parameter, told in zip(self.parameters, zip(*steps, strict=True), strict=True):
            if any(told) and parameter not in self.sparse:
                of_parameter = {kind: parts[parameter] for kind, parts in moments.items()}
                own[parameter] = {"step": next(filter(None, told)), **of_parameter}
        return own

    def state_of_piece(self, parameter: Tensor, state: dict) -> dict:
        """The part of a parameter's state that is its piece's; whole_state's inverse."""
        if parameter in self.sparse:
            return state
        part, piece = self.parts[parameter], self.pieces[parameter]
        return {key: x.reshape(-1)[part].view_as(piece) if key in MOMENTS else x for key, x in state.items()}
