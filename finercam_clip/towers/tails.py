"""From the activations at the target layer to the image embedding, and back: f and its Jacobian J = df/dA.

A tower is cut in two (`Cut`). The trunk runs for a whole batch without a graph, up to a state. The rest leads from one
image's state through the target layer to its embedding; `record` keeps its graph. Where a single query reads the
patches last there is a closed form besides (`closed.QueryTail`). Both kinds of tail give the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from finercam_clip.towers.temporary import frozen


class Tail(Protocol):
    """What a method reads of one target layer.

    Attributes:
        activations: A, float32 [N, C]: the patch tokens or cells at the target layer.
        embedding: f, float32 [D]: the image embedding that scores are taken from.
    """

    @property
    def activations(self) -> Tensor: ...

    @property
    def embedding(self) -> Tensor: ...

    def gradients(self, directions: Tensor) -> Iterator[Tensor]:
        """J^T d, [N, C], for each direction d of `directions` [K, D]."""
        ...


@dataclass(frozen=True, eq=False)
class AutogradTail:
    """The graph from A to f as torch recorded it. It works for any tower and any pooling.

    Attributes:
        leaf: [1, ...], the layer's whole output, where the graph starts.
        output: f [D] with its graph.
        patches: Leaf -> A as a view [1, N, C], without other tokens.
    """

    leaf: Tensor
    output: Tensor
    patches: Callable[[Tensor], Tensor]

    @property
    def activations(self) -> Tensor:
        return self.patches(self.leaf.detach())[0].float()

    @property
    def embedding(self) -> Tensor:
        return self.output.detach()

    def gradients(self, directions: Tensor) -> Iterator[Tensor]:
        for d in directions:
            norm = d.norm().clamp_min(1e-12)  # unit cotangents: half precision neither overflows nor underflows
            (gradient,) = torch.autograd.grad(self.output, self.leaf, d / norm, retain_graph=True)
            yield self.patches(gradient)[0].float() * norm


class Cut(NamedTuple):
    """A tower cut in two.

    Attributes:
        state: [B, ...], what the trunk has made of a batch of images.
        rest: From one image's state [1, ...] to its embedding before normalising [1, D].
        layer: The module within the rest whose output is A. None: A is the state itself.
        closed: The tails in closed form, one per image, where there is one.
    """

    state: Tensor
    rest: Callable[[Tensor], Tensor]
    layer: nn.Module | None = None
    closed: Callable[[], Iterator[Tail]] | None = None


def record(
    visual: nn.Module, cut: Cut, patches: Callable[[Tensor], Tensor], scored: Callable[[Tensor], Tensor]
) -> list[AutogradTail]:
    """Runs the rest of a tower image by image, with a graph that begins at A; its parameters are frozen meanwhile.

    `patches` and `scored` are the tower's (see `Tower`).
    """
    leaves: list[Tensor] = []

    def start(module: nn.Module | None, inputs: Any, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[-1].clone()  # what follows may change it in place

    handle = None if cut.layer is None else cut.layer.register_forward_hook(start)
    tails: list[AutogradTail] = []
    try:
        with frozen(visual), torch.enable_grad():
            for state in torch.split(cut.state, 1):
                output = cut.rest(start(None, (), state) if cut.layer is None else state)
                tails.append(AutogradTail(leaves[-1], scored(output)[0], patches))
    finally:
        if handle is not None:
            handle.remove()
    return tails


class _ReachedError(Exception):
    """Ends a pass where the module begins that was waited for."""


@torch.no_grad()
def arguments_of(module: nn.Module, run: Callable[[], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Runs a tower (`run`) up to one of its modules, and gives what that is called with."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((args, kwargs))
        raise _ReachedError

    handle = module.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        run()
    except _ReachedError:
        pass
    finally:
        handle.remove()
    return calls[0]


def input_of(module: nn.Module, run: Callable[[], Any]) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """As `arguments_of`: the module's input, and the module as a function of it, which keeps the other arguments."""
    (tokens, *others), named = arguments_of(module, run)
    return tokens, lambda x: module(x, *others, **named)
