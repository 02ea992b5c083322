"""The one table of model families: where the target layer is, how its output becomes a grid, how the tower pools.

Nothing else in the engine knows a model. To add a family, write its few functions and one entry in `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from finercam_clip.errors import InputError
from finercam_clip.tails import AutogradTail, ClassTokenTail, Tail, unit_norm

POOLINGS = ("model", "mean")
Tower = Any  # an nn.Module with open_clip's attributes, which torch's types do not know


@dataclass(frozen=True)
class Family:
    """One kind of image tower.

    matches: whether a tower (open_clip's `model.visual`) is of this family; matches_config: the same, told from
        open_clip's "vision_cfg" without building it.
    target_layer: the module whose output is A; here [B, prefix + N, C].
    prefix: tokens before the patch tokens (class, registers).
    grid: the (h, w) of the patch tokens, row by row, for model input of (H, W) pixels.
    encode: pixels [B, 3, H, W] and pooling -> one tail an image.
    """

    name: str
    matches: Callable[[Tower], bool]
    matches_config: Callable[[dict[str, Any]], bool]
    target_layer: Callable[[Tower], nn.Module]
    prefix: int
    grid: Callable[[Tower, tuple[int, int]], tuple[int, int]]
    encode: Callable[[Tower, Tensor, str], list[Tail]]


def family_of(visual: Tower) -> Family:
    """The family of an image tower.

    Raises:
        InputError: no entry of `FAMILIES` matches.
    """
    for family in FAMILIES:
        if family.matches(visual):
            return family
    raise unsupported(f"an image tower of type {type(visual).__name__}")


def unsupported(what: str) -> InputError:
    """The error for a tower of no family."""
    names = ", ".join(family.name for family in FAMILIES)
    return InputError(f"{what} is not supported yet; supported families: {names} (finercam-clip models lists models)")


def family_of_config(config: dict[str, Any]) -> str | None:
    """The name of the family that a "vision_cfg" of open_clip describes, or None."""
    return next((family.name for family in FAMILIES if family.matches_config(config)), None)


# ------------------------------------------------------------------------------------ native ViT (open_clip's own code)


def _vit_target_layer(visual: Tower) -> nn.Module:
    # ln_1 of the last block, as CLIP-ES and grad-cam's users have it: after it, patches reach a class token only as
    # keys and values, and what comes later gets no gradient at all.
    layer: nn.Module = visual.transformer.resblocks[-1].ln_1
    return layer


def _vit_grid(visual: Tower, size: tuple[int, int]) -> tuple[int, int]:
    return size[0] // visual.patch_size[0], size[1] // visual.patch_size[1]


def _vit_encode(visual: Tower, pixels: Tensor, pooling: str) -> list[Tail]:
    if pooling == "model" and _pools_class_token(visual):
        return list(_class_token_tails(visual, pixels))
    return [_autograd_tail(visual, image[None], pooling) for image in pixels]


def _pools_class_token(visual: Tower) -> bool:
    block = visual.transformer.resblocks[-1]
    return (
        visual.pool_type == "tok"
        and visual.attn_pool is None
        and len(visual.transformer.resblocks) > 1
        and type(block) is ResidualAttentionBlock
        and not hasattr(block, "ln_1_kv")
        and block.attn.in_proj_weight is not None
        and block.attn.bias_k is None
        and not block.attn.add_zero_attn
    )


@torch.no_grad()
def _class_token_tails(visual: Tower, pixels: Tensor) -> Iterator[ClassTokenTail]:
    """All blocks but the last, then of the last only what the class token reads (see `ClassTokenTail`)."""
    blocks = visual.transformer.resblocks
    found = visual.forward_intermediates(
        pixels,
        indices=[len(blocks) - 2],
        stop_early=True,
        intermediates_only=True,
        output_fmt="NLC",
        output_extra_tokens=True,
    )
    residual = found["image_intermediates_prefix"][0][:, 0]
    block = blocks[-1]
    attention = block.attn
    tokens = block.ln_1(torch.cat([residual[:, None], found["image_intermediates"][0]], 1))
    weight = attention.in_proj_weight
    bias = attention.in_proj_bias if attention.in_proj_bias is not None else weight.new_zeros(len(weight))
    width, heads = tokens.shape[-1], attention.num_heads
    query = F.linear(tokens[:, 0], weight[:width], bias[:width])
    keyed = F.linear(tokens, weight[width : 2 * width])  # without their biases: W_k a, W_v a
    valued = F.linear(tokens, weight[2 * width :])

    def split(x: Tensor) -> Tensor:
        return x.float().view(*x.shape[:-1], heads, -1)

    queries = split(query) * (width // heads) ** -0.5
    match = torch.einsum("bhc,bnhc->bnh", queries, split(keyed))
    # The key bias adds the same number to every score of a head: softmax does not see it.
    weights = match.softmax(1)
    value_bias = split(bias[2 * width :])
    content = split(valued)
    attended = torch.einsum("bnh,bnhc->bhc", weights, content) + value_bias
    key_weight, value_weight = (w.float().view(heads, -1, width) for w in weight[width:].chunk(2))
    query_keys = torch.einsum("bhc,hck->bhk", queries, key_weight)
    for i in range(len(pixels)):
        yield ClassTokenTail(
            activations=tokens[i, 1:].float(),
            weights=weights[i, 1:],
            content=content[i, 1:],
            bias=value_bias,
            match=match[i, 1:],
            attended=attended[i],
            query_keys=query_keys[i],
            value_weight=value_weight,
            finish=_class_token_finish(visual, residual[i]),
        )


def _class_token_finish(visual: Tower, residual: Tensor) -> Callable[[Tensor], Tensor]:
    """From the class token's attention output, before its projection, to the unit-norm embedding."""
    block = visual.transformer.resblocks[-1]

    def finish(attended: Tensor) -> Tensor:
        x = residual + block.ls_1(block.attn.out_proj(attended.to(residual.dtype)))
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
        x = visual.ln_post(x)
        return unit_norm(x if visual.proj is None else x @ visual.proj)

    return finish


def _autograd_tail(visual: Tower, pixels: Tensor, pooling: str) -> AutogradTail:
    """A plain forward with the target layer's output made a leaf: torch records the graph from there on only."""
    kept: dict[str, Tensor] = {}

    def cut(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        kept["leaf"] = output.detach().requires_grad_()
        return kept["leaf"]

    def keep_tokens(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        kept["tokens"] = output

    handles = [
        _vit_target_layer(visual).register_forward_hook(cut),
        visual.transformer.register_forward_hook(keep_tokens),
    ]
    try:
        with frozen(visual), torch.enable_grad():
            output = visual(pixels)
            output = output[0] if isinstance(output, tuple) else output
            if pooling == "mean":
                output = _mean_of_patches(visual, kept["tokens"])
            return AutogradTail(kept["leaf"], unit_norm(output)[0], prefix=1)
    finally:
        for handle in handles:
            handle.remove()


def _mean_of_patches(visual: Tower, tokens: Tensor) -> Tensor:
    """CLIP-ES's pooling: proj of the mean patch token of ln_post, the class token left out."""
    if visual.attn_pool is not None:
        raise InputError("pooling 'mean' needs a tower without attention pooling; use pooling 'model'")
    pooled: Tensor
    if visual.final_ln_after_pool:
        pooled = visual.ln_post(tokens[:, 1:].mean(1))
    else:
        pooled = visual.ln_post(tokens)[:, 1:].mean(1)
    return pooled if visual.proj is None else pooled @ visual.proj


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient inside; afterwards each asks as it did before."""
    asking = [p for p in module.parameters() if p.requires_grad]
    try:
        for parameter in asking:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


FAMILIES: tuple[Family, ...] = (
    Family(
        name="vit",
        matches=lambda visual: isinstance(visual, VisionTransformer),
        matches_config=lambda config: "timm_model_name" not in config and not isinstance(config.get("layers"), list),
        target_layer=_vit_target_layer,
        prefix=1,
        grid=_vit_grid,
        encode=_vit_encode,
    ),
)
