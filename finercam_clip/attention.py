"""Self-attention of a tower's blocks, as the model itself computes it: its inputs, weights and what hangs on them.

Nothing is replaced and no formula of attention is written a second time: torch's module is asked for its weights,
timm's is run on its own unfused path, where they can be listened to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finercam_clip.errors import InputError

Module = Any  # an attention module, with attributes that torch's types do not know


@dataclass(frozen=True, eq=False)
class Attentions:
    """The self-attention of consecutive blocks in one pass of one image, n tokens, prefix tokens first.

    modules: the blocks' attention; inputs: what each reads, [n, C]; weights: [H, n, n], float32; outputs: what each
    gives, [1, n, C]; embedding: f [D], of the tokens after the last of these blocks, pooled as the tower pools.
    With a graph from the first of these blocks on, if it was asked for.
    """

    modules: tuple[Module, ...]
    inputs: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    embedding: Tensor

    def projected(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of one of the blocks, [H, n, c] each."""
        return projected(self.modules[i], self.inputs[i])

    def head_gradients(self, direction: Tensor) -> list[Tensor]:
        """The gradient of f . direction at the heads' outputs, side by side and before their projection: [n, H c]."""
        norm = direction.norm().clamp_min(1e-12)  # a unit cotangent: half precision neither overflows nor underflows
        slopes = torch.autograd.grad(self.embedding, self.outputs, direction / norm, retain_graph=True)
        found = []
        for module, inputs, weights, slope in zip(self.modules, self.inputs, self.weights, slopes, strict=True):
            heads = _side_by_side(weights, projected(module, inputs)[2])
            pull_back: Any = torch.func.vjp(lambda x, module=module: merged(module, x), heads)[1]
            found.append(pull_back(slope[0].to(heads.dtype))[0].float() * norm)
        return found

    def weight_gradients(self, direction: Tensor) -> list[Tensor]:
        """The gradient of f . direction at the attention weights, [H, n, n]: dL/dA_hij = (dL/do_hi) . v_hj."""
        found = []
        for i, slope in enumerate(self.head_gradients(direction)):
            value = self.projected(i)[2].float()
            found.append(slope.view(len(slope), len(value), -1).transpose(0, 1) @ value.mT)
        return found


def attentions_of(
    blocks: Sequence[Module],
    run: Callable[[], Any],
    finish: Callable[[Tensor], Tensor],
    *,
    graph: bool,
) -> Attentions:
    """Records the self-attention of consecutive `blocks` while `run` runs the tower on one image.

    finish: tokens after the last of the blocks, [1, n, C] -> embedding before normalising, [1, D].

    Raises:
        InputError: the weights of an attention module cannot be had, or are not all that its output comes from.
    """
    modules = [block.attn for block in blocks]
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    weights: list[Tensor] = []
    tokens: list[Tensor] = []

    def start(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0].detach().requires_grad_(), *args[1:])  # the graph begins here, the parameters being frozen

    def hear(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        inputs.append((args[0] if args else kwargs["query"])[0].detach())
        outputs.append(output[0] if isinstance(output, tuple) else output)

    with ExitStack() as stack:
        if graph:
            stack.callback(blocks[0].register_forward_pre_hook(start).remove)
        for module in modules:
            stack.enter_context(_weights_into(module, weights))
            stack.callback(module.register_forward_hook(hear, with_kwargs=True).remove)
        stack.callback(blocks[-1].register_forward_hook(lambda _, __, output: tokens.append(output)).remove)
        stack.enter_context(torch.set_grad_enabled(graph))
        run()
        embedding = finish(tokens[0])[0]
    found = Attentions(tuple(modules), tuple(inputs), tuple(weights), tuple(outputs), embedding)
    for i, (module, heard) in enumerate(zip(modules, outputs, strict=True)):
        again = merged(module, _side_by_side(weights[i], found.projected(i)[2])).float()
        if not torch.allclose(again, heard[0].detach().float(), atol=0.05 * float(heard.detach().float().std())):
            raise InputError(f"the attention of {type(module).__name__} does more than weigh values: not supported yet")
    return found


@contextmanager
def _weights_into(module: Module, weights: list[Tensor]) -> Iterator[None]:
    """Inside, every run of an attention module leaves its weights [H, n, n] in the list."""
    if isinstance(module, nn.MultiheadAttention):

        def ask(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            return args, kwargs | {"need_weights": True, "average_attn_weights": False}

        handles = [
            module.register_forward_pre_hook(ask, with_kwargs=True),
            module.register_forward_hook(lambda _, __, output: weights.append(output[1][0].detach().float())),
        ]
        fused = None
    elif hasattr(module, "attn_drop") and hasattr(module, "fused_attn"):
        drop: nn.Module = module.attn_drop
        handles = [drop.register_forward_hook(lambda _, __, output: weights.append(output[0].detach().float()))]
        fused = module.fused_attn
        module.fused_attn = False
    else:
        raise InputError(f"the attention weights of {type(module).__name__} cannot be had yet")
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        if fused is not None:
            module.fused_attn = fused


@torch.no_grad()
def projected(module: Module, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (not scaled), keys and values [H, n, c] of tokens [n, C]; rotary positions are left out."""
    if isinstance(module, nn.MultiheadAttention):
        parts = F.linear(tokens, module.in_proj_weight, module.in_proj_bias).chunk(3, -1)
    elif module.qkv is None:
        parts = module.q_proj(tokens), module.k_proj(tokens), module.v_proj(tokens)
    else:
        parts = F.linear(tokens, module.qkv.weight, qkv_bias(module)).chunk(3, -1)
    query, key, value = (part.view(len(tokens), module.num_heads, -1).transpose(0, 1) for part in parts)
    if hasattr(module, "q_norm"):
        query, key = module.q_norm(query), module.k_norm(key)
    return query, key, value


def qkv_bias(module: Module) -> Tensor | None:
    """The bias of timm's `qkv`, which EVA keeps in three."""
    if getattr(module, "q_bias", None) is not None:
        return torch.cat([module.q_bias, module.k_bias, module.v_bias])
    bias: Tensor | None = module.qkv.bias
    return bias


def merged(module: Module, heads: Tensor) -> Tensor:
    """From the heads' outputs side by side, [n, H c], to the module's output [n, C]."""
    if isinstance(module, nn.MultiheadAttention):
        return F.linear(heads, module.out_proj.weight, module.out_proj.bias)
    output: Tensor = module.proj(module.norm(heads) if hasattr(module, "norm") else heads)
    return output


def mixed(module: Module, weights: Tensor, value: Tensor) -> Tensor:
    """The module's output [n, C] if its weights were these, [H, n, n], on values [H, n, c]."""
    return merged(module, _side_by_side(weights, value))


def _side_by_side(weights: Tensor, value: Tensor) -> Tensor:
    return (weights.to(value.dtype) @ value).transpose(0, 1).flatten(1)
