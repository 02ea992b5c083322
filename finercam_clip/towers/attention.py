"""Self-attention of a tower's blocks, as the model itself computes it: its inputs, weights and what hangs on them.

Nothing is replaced and no formula of attention is written a second time: torch's module is asked for its weights, and
timm's is run on its own unfused path, where they can be listened to. Each kind of module has one small adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finercam_clip.errors import InputError
from finercam_clip.towers.temporary import attributes

_WEIGHS_VALUES: WeakSet[nn.Module] = WeakSet()  # modules whose output was seen to be their weights times their values


class Attention(Protocol):
    """An attention module behind one face, whatever library it is from."""

    @property
    def module(self) -> Any: ...

    def read(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """The tokens [B, n, C] among the arguments of a call of the module."""
        ...

    def weights_into(self, weights: list[Tensor]) -> AbstractContextManager[None]:
        """Inside, every run of the module leaves its weights [H, n, n], float32, in the list."""
        ...

    def projected(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (not scaled), keys and values [H, n, c] of tokens [n, C]; rotary positions are left out."""
        ...

    def merged(self, heads: Tensor) -> Tensor:
        """The heads' outputs side by side, [n, H c] -> the module's output [n, C]."""
        ...


def attention_of(module: Any) -> Attention:
    """The adapter of an attention module. Raises InputError where its weights cannot be had."""
    if isinstance(module, nn.MultiheadAttention):
        return TorchAttention(module)
    if hasattr(module, "attn_drop") and hasattr(module, "fused_attn"):
        return TimmAttention(module)
    raise InputError(f"the attention weights of {type(module).__name__} cannot be had yet")


@dataclass(frozen=True)
class TorchAttention:
    """torch.nn.MultiheadAttention, as open_clip's own blocks have it."""

    module: Any

    def read(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        tokens: Tensor = args[0] if args else kwargs["query"]
        return tokens

    @contextmanager
    def weights_into(self, weights: list[Tensor]) -> Iterator[None]:
        def request(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            return args, kwargs | {"need_weights": True, "average_attn_weights": False}

        with ExitStack() as stack:
            stack.callback(self.module.register_forward_pre_hook(request, with_kwargs=True).remove)
            hook = self.module.register_forward_hook(
                lambda _, __, output: weights.append(output[1][0].detach().float())
            )
            stack.callback(hook.remove)
            yield

    @torch.no_grad()
    def projected(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parts = F.linear(tokens, self.module.in_proj_weight, self.module.in_proj_bias).chunk(3, -1)
        query, key, value = (_split(part, self.module.num_heads) for part in parts)
        return query, key, value

    def merged(self, heads: Tensor) -> Tensor:
        return F.linear(heads, self.module.out_proj.weight, self.module.out_proj.bias)


@dataclass(frozen=True)
class TimmAttention:
    """timm's Attention and EvaAttention."""

    module: Any

    def read(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        tokens: Tensor = args[0] if args else kwargs["x"]
        return tokens

    @contextmanager
    def weights_into(self, weights: list[Tensor]) -> Iterator[None]:
        handle = self.module.attn_drop.register_forward_hook(
            lambda _, __, output: weights.append(output[0].detach().float())
        )
        try:
            with attributes(self.module, fused_attn=False):
                yield
        finally:
            handle.remove()

    @torch.no_grad()
    def projected(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        module = self.module
        if module.qkv is None:
            parts = [module.q_proj(tokens), module.k_proj(tokens), module.v_proj(tokens)]
        else:
            own = getattr(module, "q_bias", None) is None  # else EVA keeps the bias beside the layer, in three
            merged = module.qkv(tokens) if own else F.linear(tokens, module.qkv.weight, self.qkv_bias())
            parts = list(merged.chunk(3, -1))
        query, key, value = (_split(part, module.num_heads) for part in parts)
        return (module.q_norm(query), module.k_norm(key), value) if hasattr(module, "q_norm") else (query, key, value)

    def merged(self, heads: Tensor) -> Tensor:
        output: Tensor = self.module.proj(self.module.norm(heads) if hasattr(self.module, "norm") else heads)
        return output

    def qkv_bias(self) -> Tensor:
        """The bias of queries, keys and values, which EVA keeps in three; 0 where there is none."""
        module = self.module
        if module.qkv is None:
            layers = (module.q_proj, module.k_proj, module.v_proj)
            return torch.cat([_bias_of(layer) for layer in layers])
        if getattr(module, "q_bias", None) is not None:
            return torch.cat([module.q_bias, module.k_bias, module.v_bias])
        return _bias_of(module.qkv)


def _bias_of(layer: Any) -> Tensor:
    bias: Tensor = layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias
    return bias


@dataclass(frozen=True, eq=False)
class Attentions:
    """The self-attention of consecutive blocks in one pass of one image: n tokens, prefix tokens first.

    Attributes:
        modules: The blocks' attention.
        inputs: What each of them reads, [n, C].
        weights: [H, n, n] each, float32.
        outputs: What each of them gives, [1, n, C].
        embedding: f, [D], of the tokens after the last of these blocks. With a graph from the first block on, if it was
            recorded.
    """

    modules: tuple[Attention, ...]
    inputs: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    embedding: Tensor

    def projected(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of one of the blocks, [H, n, c] each."""
        return self.modules[i].projected(self.inputs[i])

    @cached_property
    def values(self) -> tuple[Tensor, ...]:
        """The values of every block, [H, n, c] each."""
        return tuple(self.projected(i)[2] for i in range(len(self.modules)))

    @cached_property
    def _pull_backs(self) -> tuple[Callable[[Tensor], tuple[Tensor]], ...]:
        """From each module's output [n, C] back to its heads' outputs side by side [n, H c]."""
        heads = [side_by_side(weights, value) for weights, value in zip(self.weights, self.values, strict=True)]
        return tuple(torch.func.vjp(m.merged, x)[1] for m, x in zip(self.modules, heads, strict=True))

    def head_gradients(self, direction: Tensor) -> list[Tensor]:
        """The gradient of f . direction at the heads' outputs, side by side and before their projection: [n, H c]."""
        norm = direction.norm().clamp_min(1e-12)  # a unit cotangent: half precision neither overflows nor underflows
        slopes = torch.autograd.grad(self.embedding, self.outputs, direction / norm, retain_graph=True)
        dtypes = (value.dtype for value in self.values)
        return [
            pull_back(slope[0].to(dtype))[0].float() * norm
            for pull_back, slope, dtype in zip(self._pull_backs, slopes, dtypes, strict=True)
        ]

    def weight_gradients(self, direction: Tensor) -> list[Tensor]:
        """The gradient of f . direction at the attention weights, [H, n, n]: dL/dA_hij = (dL/do_hi) . v_hj."""
        return [
            slope.view(len(slope), len(value), -1).transpose(0, 1) @ value.float().mT
            for slope, value in zip(self.head_gradients(direction), self.values, strict=True)
        ]


def attentions_of(
    blocks: Sequence[Any],
    modules: Sequence[Attention],
    run: Callable[[], Any],
    embed: Callable[[Any], Tensor],
    *,
    graph: bool,
) -> Attentions:
    """Records the self-attention of consecutive blocks while a tower runs on one image.

    Args:
        blocks: The blocks.
        modules: Their attention.
        run: Runs the tower.
        embed: What the last of the blocks gives, tokens [1, n, C] -> their embedding, [1, D].
        graph: Whether a graph begins at the first of the blocks.

    Raises:
        InputError: A module's weights are not all that its output comes from.
    """
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    weights: list[Tensor] = []
    tokens: list[Any] = []

    def start(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0].detach().requires_grad_(), *args[1:])  # the graph begins here, the parameters being frozen

    def listen(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        attention = next(attention for attention in modules if attention.module is module)
        inputs.append(attention.read(args, kwargs)[0].detach())
        outputs.append(output[0] if isinstance(output, tuple) else output)

    with ExitStack() as stack:
        if graph:
            stack.callback(blocks[0].register_forward_pre_hook(start).remove)
        for attention in modules:
            stack.enter_context(attention.weights_into(weights))
            stack.callback(attention.module.register_forward_hook(listen, with_kwargs=True).remove)
        stack.callback(blocks[-1].register_forward_hook(lambda _, __, output: tokens.append(output)).remove)
        stack.enter_context(torch.set_grad_enabled(graph))
        run()
        embedding = embed(tokens[0])[0]
    attentions = Attentions(tuple(modules), tuple(inputs), tuple(weights), tuple(outputs), embedding)
    _check_weighs_values(attentions)
    return attentions


@torch.no_grad()
def _check_weighs_values(attentions: Attentions) -> None:
    """Each module's output must be its weights times its values, projected. Once per module: it costs a product."""
    for i, attention in enumerate(attentions.modules):
        if attention.module in _WEIGHS_VALUES:
            continue
        again = mixed(attention, attentions.weights[i], attentions.projected(i)[2]).float()
        output = attentions.outputs[i][0].detach().float()
        if not torch.allclose(again, output, atol=0.05 * float(output.std())):
            kind = type(attention.module).__name__
            raise InputError(f"the attention of {kind} does more than weigh values: not supported yet")
        _WEIGHS_VALUES.add(attention.module)


def mixed(attention: Attention, weights: Tensor, value: Tensor) -> Tensor:
    """The module's output [n, C] if its weights were these, [H, n, n], on values [H, n, c]."""
    return attention.merged(side_by_side(weights, value))


def side_by_side(weights: Tensor, value: Tensor) -> Tensor:
    """Weights [H, n, n] times values [H, n, c], the heads side by side: [n, H c]."""
    return (weights.to(value.dtype) @ value).transpose(0, 1).flatten(1)


def _split(projected: Tensor, heads: int) -> Tensor:
    """[n, H c] -> [H, n, c]."""
    return projected.view(len(projected), heads, -1).transpose(0, 1)
