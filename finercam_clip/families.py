"""The one table of model families: where the target layer is, how its output becomes a grid, how the tower pools.

Nothing else in the engine knows a model. To add a family, write its few functions and one entry in `FAMILIES`.

A tower is cut in two. The *trunk* runs for a whole batch without a graph, up to a *state*; the *rest*, from one image's
state to its embedding, runs through the target layer and is what torch records (`_recorded_tails`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import timm
import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from timm.layers.attention import Attention
from timm.layers.attention_pool import AttentionPoolLatent
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.format import Format
from timm.layers.hybrid_embed import HybridEmbed
from timm.layers.mlp import GluMlp, Mlp, SwiGLU
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.eva import EvaAttention, EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from finercam_clip.attention import merged, qkv_bias
from finercam_clip.errors import InputError
from finercam_clip.images import pair
from finercam_clip.tails import AutogradTail, MeanToken, QueryTail, Tail, unit_norm

POOLINGS = ("model", "mean", "token")
Tower = Any  # an nn.Module with open_clip's attributes, which torch's types do not know
PullBack = Callable[[Tensor], Tensor]  # cotangents at a function's output [K, D] -> at its input


@dataclass(frozen=True)
class Tokens:
    """A tower of transformer blocks, each with its self-attention as `attn`.

    blocks: from first to last. pools: what the embedding is made of: "token" (the class token), "mean" or "attention".
    finish: tokens after the last block [B, n, C] and pooling -> embedding before normalising, [B, D].
    project: tokens after the last block [n, C], each by itself to embedding space [n, D].
    """

    blocks: Callable[[Tower], list[Any]]
    pools: Callable[[Tower], str]
    finish: Callable[[Tower, Tensor, str], Tensor]
    project: Callable[[Tower, Tensor], Tensor]


@dataclass(frozen=True)
class Family:
    """One kind of image tower.

    towers, layer, pooling: for people: which they are, the target layer, how the towers pool.
    matches: whether a tower (open_clip's `model.visual`) is of this family; matches_config: the same, told from
        open_clip's "vision_cfg" without building it.
    layers: the modules whose output can be A, from first to last; the last is the target layer.
    patches: that output -> [B, N, C], the patch tokens or cells, row by row. A view: it serves for gradients too.
    stride: (height, width) of a cell in pixels of the model's input.
    shift: (y, x) pixels from the middle of a cell's block of pixels to where its receptive field is centred. Not zero
        for convolutions of odd size and stride 2: each is centred on the first of the two pixels that it steps over.
    sized: inside it the tower takes images of another (H, W) than its own; afterwards it is as it was.
    partial: whether pixels left over at the end make a cell of their own, as in convolutions that pad.
    encode: pixels [B, 3, H, W] and pooling -> one tail an image.
    tokens: what a transformer has besides, or None.
    """

    name: str
    towers: str
    layer: str
    pooling: str
    matches: Callable[[Tower], bool]
    matches_config: Callable[[dict[str, Any]], bool]
    layers: Callable[[Tower], list[nn.Module]]
    patches: Callable[[Tower, Tensor], Tensor]
    stride: Callable[[Tower], tuple[int, int]]
    shift: Callable[[Tower], tuple[float, float]]
    sized: Callable[[Tower, tuple[int, int]], AbstractContextManager[None]]
    encode: Callable[[Tower, Tensor, str], list[Tail]]
    partial: bool = False
    tokens: Tokens | None = None

    def target_layer(self, visual: Tower) -> nn.Module:
        """The module whose output is A."""
        return self.layers(visual)[-1]

    def layer_named(self, visual: Tower, layer: int | str) -> nn.Module:
        """One of `layers` by its index, or any module of the tower by its name.

        Raises:
            InputError: there is no such layer.
        """
        layers = self.layers(visual)
        try:
            found: nn.Module = layers[layer] if isinstance(layer, int) else visual.get_submodule(layer)
        except (IndexError, AttributeError) as error:
            raise InputError(
                f"there is no layer {layer}; {_askable(self, visual)}, or any other module's name"
            ) from error
        return found

    def grid(self, visual: Tower, size: tuple[int, int]) -> tuple[int, int]:
        """The (h, w) of the grid for model input of (H, W) pixels."""
        height, width = self.stride(visual)
        more = (height - 1, width - 1) if self.partial else (0, 0)
        return (size[0] + more[0]) // height, (size[1] + more[1]) // width


def family_of(visual: Tower) -> Family:
    """The family of an image tower.

    Raises:
        InputError: no entry of `FAMILIES` matches.
    """
    for family in FAMILIES:
        if family.matches(visual):
            return family
    inner = f" around {type(visual.trunk).__name__}" if hasattr(visual, "trunk") else ""
    raise unsupported(f"an image tower of type {type(visual).__name__}{inner}")


def unsupported(what: str) -> InputError:
    """The error for a tower of no family."""
    names = ", ".join(family.name for family in FAMILIES)
    return InputError(f"{what} is not supported yet; supported families: {names} (finercam-clip models lists models)")


def family_of_config(config: dict[str, Any]) -> str | None:
    """The name of the family that a "vision_cfg" of open_clip describes, or None."""
    return next((family.name for family in FAMILIES if family.matches_config(config)), None)


def _recorded_tails(
    visual: Tower,
    states: Tensor,
    rest: Callable[[Tensor], Tensor],
    patches: Callable[[Tensor], Tensor],
    layer: nn.Module | None = None,
) -> list[Tail]:
    """One `AutogradTail` an image: the graph of `rest`, from a state [1, ...] to the embedding before normalising.

    A is the output of `layer`, made a leaf on the way, or the state itself.
    """
    kept: list[Tensor] = []

    def cut(module: nn.Module | None, inputs: Any, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[-1]

    handle = None if layer is None else layer.register_forward_hook(cut)
    tails: list[Tail] = []
    try:
        with frozen(visual), torch.enable_grad():
            for state in torch.split(states, 1):
                output = rest(cut(None, (), state) if layer is None else state)
                tails.append(AutogradTail(kept[-1], as_scored(visual, output)[0], patches))
    finally:
        if handle is not None:
            handle.remove()
    return tails


def tails_at(family: Family, visual: Tower, pixels: Tensor, pooling: str, layer: nn.Module) -> list[Tail]:
    """One tail an image with another layer's output as A: the whole tower is run, with a graph from there on.

    Raises:
        InputError: what the layer gives is no grid of patches, or no gradient reaches its patches.
    """

    def whole(x: Tensor) -> Tensor:
        if pooling == "model" or family.tokens is None:
            return embedding_of(visual(x))
        kept: list[Tensor] = []
        handle = family.tokens.blocks(visual)[-1].register_forward_hook(lambda _, __, output: kept.append(output))
        try:
            visual(x)
        finally:
            handle.remove()
        return family.tokens.finish(visual, kept[0], pooling)

    if family.tokens is None:
        _only_own_pooling(pooling)
    name = _names_of(visual, [layer])[0]
    try:
        tails = _recorded_tails(visual, pixels, whole, lambda output: family.patches(visual, output), layer)
        (gradient,) = tails[0].gradients(torch.ones_like(tails[0].embedding)[None])
        some = gradient.shape == tails[0].activations.shape and bool(gradient.any())
    except (IndexError, AttributeError, RuntimeError) as error:
        raise InputError(f"layer {name} gives no grid of patches; {_askable(family, visual)}") from error
    if not some:
        raise InputError(
            f"no gradient reaches the patches at layer {name}, so its maps would be empty; {_askable(family, visual)}"
        )
    return tails


def _askable(family: Family, visual: Tower) -> str:
    return f"layers that can be asked: {', '.join(_names_of(visual, family.layers(visual)))}, or their index from -1"


def _names_of(visual: Tower, modules: list[nn.Module]) -> list[str]:
    names = {id(module): name for name, module in visual.named_modules()}
    return [names[id(module)] for module in modules]


def embedding_of(output: Any) -> Tensor:
    """The embedding [B, D] of what a tower returns: some return their tokens, too."""
    embedding: Tensor = output[0] if isinstance(output, tuple) else output
    return embedding


def as_scored(visual: Tower, features: Tensor) -> Tensor:
    """Features as scores are taken from them, float32: of unit norm in CLIP, as they are where a linear head reads them
    (`classifiers.Backbone`)."""
    return features.float() if getattr(visual, "linear_head", False) else unit_norm(features)


class _ReachedError(Exception):
    """Ends a pass where the block begins that was waited for."""


@torch.no_grad()
def _input_of(block: nn.Module, run: Callable[[], Any]) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """What a block gets when `run` runs the tower up to there, and the block as a function of its tokens alone."""
    kept: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kept.append((args, kwargs))
        raise _ReachedError

    handle = block.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        run()
    except _ReachedError:
        pass
    finally:
        handle.remove()
    ((tokens, *others), named), *_ = kept
    return tokens, lambda x: block(x, *others, **named)


def _without(prefix: int) -> Callable[[Tensor], Tensor]:
    return lambda tokens: tokens[:, prefix:]


@contextmanager
def _resized_positions(owner: Tower, own_grid: tuple[int, int], grid: tuple[int, int]) -> Iterator[None]:
    """`owner.positional_embedding`, a class position and a grid, resampled for another grid; then put back."""
    own = owner.positional_embedding
    resampled = resample_abs_pos_embed(
        own.detach()[None], new_size=list(grid), old_size=list(own_grid), num_prefix_tokens=1
    )[0]
    owner.positional_embedding = nn.Parameter(resampled, requires_grad=False)
    try:
        yield
    finally:
        owner.positional_embedding = own


def _no_shift(visual: Tower) -> tuple[float, float]:
    return 0.0, 0.0


@torch.no_grad()
def _convolutional_shift(part: nn.Module, size: tuple[int, int]) -> tuple[float, float]:
    """`Family.shift` of a chain of convolutions: from the kernel, stride and padding of every layer that shrinks it.

    Of parallel branches (layers that get the same size) the first counts; they are centred alike.
    """
    steps: dict[tuple[int, int], Any] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        height, width = inputs[0].shape[-2:]
        if output.shape[-1] < width:
            steps.setdefault((height, width), module)

    handles = [m.register_forward_hook(note) for m in part.modules() if isinstance(m, _SHRINKING)]
    weight = next(part.parameters())
    try:
        part(weight.new_zeros(1, 3, *size))
    finally:
        for handle in handles:
            handle.remove()
    shifts = []
    for axis in (0, 1):
        centre, jump = 0.0, 1
        for step_size, step in steps.items():
            kernel, stride, padding = (pair(value)[axis] for value in (step.kernel_size, step.stride, step.padding))
            if isinstance(step, _SAME):  # pads what is missing, the larger half at the end
                padding = max((-(-step_size[axis] // stride) - 1) * stride + kernel - step_size[axis], 0) // 2
            centre += ((kernel - 1) / 2 - padding) * jump
            jump *= stride
        shifts.append(centre - (jump - 1) / 2)
    return shifts[0], shifts[1]


_SAME = (Conv2dSame, MaxPool2dSame, AvgPool2dSame)
_SHRINKING = (nn.Conv2d, nn.AvgPool2d, nn.MaxPool2d)


@contextmanager
def _attributes(owner: Any, **values: Any) -> Iterator[None]:
    """The attributes set inside, and as they were afterwards."""
    before = {name: getattr(owner, name) for name in values}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


# ------------------------------------------------------------------------------------ native ViT (open_clip's own code)


def _vit_layers(visual: Tower) -> list[nn.Module]:
    # ln_1 of the last block, as CLIP-ES and grad-cam's users have it: after it, patches reach a class token only as
    # keys and values, and what comes later gets no gradient at all. With attention pooling the pool's own norm stands
    # in that place: the last layer whose output is read as keys and values only.
    pool = [] if visual.attn_pool is None else [visual.attn_pool.ln_k]
    return [block.ln_1 for block in visual.transformer.resblocks] + pool


def _vit_pools(visual: Tower) -> str:
    return "attention" if visual.attn_pool is not None else {"tok": "token"}.get(visual.pool_type, "mean")


def _vit_patches(visual: Tower, output: Tensor) -> Tensor:
    return output[:, 1:]


def _vit_stride(visual: Tower) -> tuple[int, int]:
    height, width = visual.patch_size
    return height, width


def _vit_sized(visual: Tower, size: tuple[int, int]) -> AbstractContextManager[None]:
    height, width = _vit_stride(visual)
    return _resized_positions(visual, visual.grid_size, (size[0] // height, size[1] // width))


def _vit_encode(visual: Tower, pixels: Tensor, pooling: str) -> list[Tail]:
    if pooling != "mean" and _pools_class_token(visual):
        return list(_class_token_tails(visual, pixels))
    if pooling == "model" and _pools_by_one_query(visual):
        return list(_pool_query_tails(visual, pixels))
    return _vit_recorded_tails(visual, pixels, pooling)


def _vit_recorded_tails(visual: Tower, pixels: Tensor, pooling: str) -> list[Tail]:
    tokens, block = _input_of(visual.transformer.resblocks[-1], lambda: visual(pixels))
    return _recorded_tails(
        visual, tokens, lambda x: _vit_finish(visual, block(x), pooling), _without(1), _vit_layers(visual)[-1]
    )


def _vit_finish(visual: Tower, tokens: Tensor, pooling: str) -> Tensor:
    pooled: Tensor = visual._pool(tokens)[0] if pooling == "model" else _one_token(visual, tokens, pooling)
    return pooled if visual.proj is None else pooled @ visual.proj


def _one_token(visual: Tower, tokens: Tensor, pooling: str) -> Tensor:
    """ln_post of the class token ("token"), or CLIP-ES's mean over the patch tokens ("mean")."""
    if visual.attn_pool is not None:
        raise pooled_by_attention(f"pooling '{pooling}'")
    after = visual.final_ln_after_pool
    tokens = tokens if after else visual.ln_post(tokens)
    pooled = tokens[:, 0] if pooling == "token" else tokens[:, 1:].mean(1)
    chosen: Tensor = visual.ln_post(pooled) if after else pooled
    return chosen


def _vit_project(visual: Tower, tokens: Tensor) -> Tensor:
    if visual.attn_pool is not None:
        raise pooled_by_attention("an embedding of every patch")
    normed: Tensor = visual.ln_post(tokens)
    return normed if visual.proj is None else normed @ visual.proj


def pooled_by_attention(what: str) -> InputError:
    """The error for what such a tower cannot give."""
    return InputError(f"{what} needs a tower that pools the class token or the mean; this one pools by attention")


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
def _class_token_tails(visual: Tower, pixels: Tensor) -> Iterator[QueryTail]:
    """All blocks but the last, then of the last only what the class token reads (see `QueryTail`)."""
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
    width = tokens.shape[-1]
    query = F.linear(tokens[:, 0], weight[:width], bias[:width]).view(len(pixels), attention.num_heads, -1)
    return _query_tails(
        tokens, 1, query, weight[width:], bias[width:], lambda i, o: _class_token_rest(visual, residual[i], o)
    )


def _pools_by_one_query(visual: Tower) -> bool:
    """Whether the embedding is one query of the attention pool (CoCa), the others serving its text decoder."""
    return visual.attn_pool is not None and visual.attn_pool_contrastive is None and visual.pool_type == "tok"


@torch.no_grad()
def _pool_query_tails(visual: Tower, pixels: Tensor) -> Iterator[QueryTail]:
    """Of the attention pool only what its first query reads (see `QueryTail`)."""
    pool = visual.attn_pool
    attention = pool.attn
    tokens, _ = _input_of(pool, lambda: visual(pixels))
    own, width = attention.in_proj_weight, attention.embed_dim
    parts = own.chunk(3) if own is not None else [getattr(attention, f"{x}_proj_weight") for x in "qkv"]
    bias = attention.in_proj_bias
    query = F.linear(pool.ln_q(pool.query[:1]), parts[0], bias[:width]).view(1, attention.num_heads, -1)

    def finish(attended: Tensor) -> Tensor:
        pooled: Tensor = visual.ln_post(attention.out_proj(attended))
        return pooled if visual.proj is None else pooled @ visual.proj

    return _query_tails(
        pool.ln_k(tokens),
        1,
        query,
        torch.cat(tuple(parts[1:])),
        bias[width:],
        lambda i, o: _recorded_rest(visual, o, finish),
    )


@torch.no_grad()
def _query_tails(
    tokens: Tensor,
    prefix: int,
    query: Tensor,
    weight: Tensor,
    bias: Tensor,
    rest: Callable[[int, Tensor], tuple[Tensor, PullBack]],
) -> Iterator[QueryTail]:
    """One tail an image where a query, [B or 1, H, c], reads tokens [B, n, C], the first `prefix` of which are no
    patches.

    weight, bias: of keys and values, [2 H c, C] and [2 H c]. rest: the number of the image and its attention output o
    [H c], before the projection -> f, and the way back from cotangents at f [K, D] to cotangents at o [K, H c].
    """
    heads, width = query.shape[1:]
    key_weight, value_weight = weight.chunk(2)

    def split(x: Tensor) -> Tensor:
        return x.float().view(*x.shape[:-1], heads, width)

    queries = (query.float() * width**-0.5).expand(len(tokens), -1, -1)
    # Without their biases: W_k a, W_v a. The key bias adds the same number to every score of a head: softmax does not
    # see it.
    match = torch.einsum("bhc,bnhc->bnh", queries, split(F.linear(tokens, key_weight)))
    weights = match.softmax(1)
    value_bias = split(bias[len(key_weight) :])
    content = split(F.linear(tokens, value_weight))
    attended = torch.einsum("bnh,bnhc->bhc", weights, content) + value_bias
    key_heads, value_heads = (w.float().view(heads, width, -1) for w in (key_weight, value_weight))
    query_keys = torch.einsum("bhc,hck->bhk", queries, key_heads)
    for i in range(len(tokens)):
        embedding, pull_back = rest(i, attended[i].flatten())
        yield QueryTail(
            activations=tokens[i, prefix:].float(),
            weights=weights[i, prefix:],
            content=content[i, prefix:],
            bias=value_bias,
            match=match[i, prefix:],
            attended=attended[i],
            query_keys=query_keys[i],
            value_weight=value_heads,
            embedding=embedding,
            pull_back_rest=pull_back,
        )


def _recorded_rest(visual: Tower, attended: Tensor, finish: Callable[[Tensor], Tensor]) -> tuple[Tensor, PullBack]:
    """The `rest` of `_query_tails` from the graph of `finish`, from [1, H c] to the embedding before normalising."""
    with frozen(visual), torch.enable_grad():
        leaf = attended.to(next(visual.parameters()).dtype)[None].requires_grad_()
        embedding = as_scored(visual, finish(leaf))[0]

    def pull_back(g: Tensor) -> Tensor:
        (back,) = torch.autograd.grad(embedding, leaf, g, retain_graph=True, is_grads_batched=True)
        return back[:, 0]

    return embedding.detach(), pull_back


@torch.no_grad()
def _class_token_rest(visual: Tower, residual: Tensor, attended: Tensor) -> tuple[Tensor, PullBack]:
    """What follows the class token's attention output o [C], before its projection: the unit-norm embedding f, and the
    way back: cotangents at f [K, D] -> at o [K, C], as a chain of matrix products (autograd would loop over the K)."""
    block = visual.transformer.resblocks[-1]
    widen, activation, narrow = block.mlp
    x = residual + block.ls_1(block.attn.out_proj(attended.to(residual.dtype)))
    hidden = widen(block.ln_2(x))
    with torch.enable_grad():
        leaf = hidden.detach().requires_grad_()
        (slope,) = torch.autograd.grad(activation(leaf).sum(), leaf)  # it acts on each element alone
    y = x + block.ls_2(narrow(activation(hidden)))
    z = visual.ln_post(y) if visual.proj is None else visual.ln_post(y) @ visual.proj
    embedding = unit_norm(z)

    @torch.no_grad()
    def pull_back(g: Tensor) -> Tensor:
        g = (g - (g @ embedding)[:, None] * embedding) / z.float().norm()
        g = g.to(residual.dtype) if visual.proj is None else g.to(residual.dtype) @ visual.proj.T
        g = _through_norm(visual.ln_post, y, g)
        inner = (_scaled(block.ls_2, g) @ narrow.weight * slope) @ widen.weight
        g = g + _through_norm(block.ln_2, x, inner)
        back: Tensor = _scaled(block.ls_1, g) @ block.attn.out_proj.weight
        return back

    return embedding, pull_back


def _through_norm(norm: Any, x: Tensor, g: Tensor) -> Tensor:
    """Cotangents g [K, C] at a layer norm's output, pulled back to its input x [C]."""
    dtype, x = x.dtype, x.float()
    centred = x - x.mean()
    deviation = (centred.square().mean() + norm.eps).sqrt()
    unit = centred / deviation
    g = g.float() if norm.weight is None else g.float() * norm.weight.float()
    back: Tensor = (g - g.mean(1, keepdim=True) - unit * (g * unit).mean(1, keepdim=True)) / deviation
    return back.to(dtype)


def _scaled(scale: Any, g: Tensor) -> Tensor:
    """Through a layer scale, or the identity in its place."""
    through: Tensor = g * scale.gamma if hasattr(scale, "gamma") else g
    return through


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


def uncompiled() -> AbstractContextManager[Any]:
    """Inside, modules that the user has compiled run as they are written: compiled ones do not see new hooks."""
    stance = getattr(torch.compiler, "set_stance", None)  # since torch 2.6
    return nullcontext() if stance is None else stance("force_eager")


# ------------------------------------------- timm's transformers (EVA, PE, SigLIP, ViTamin, MobileCLIP's ViT, ...)


def _is_token_trunk(visual: Tower) -> bool:
    trunk = getattr(visual, "trunk", None)
    return all(hasattr(trunk, name) for name in ("blocks", "num_prefix_tokens", "patch_embed", "forward_head"))


def _tokens_shift(visual: Tower) -> tuple[float, float]:
    embed = visual.trunk.patch_embed
    return _convolutional_shift(embed, tuple(embed.img_size)) if isinstance(embed, HybridEmbed) else (0.0, 0.0)


def _tokens_layers(visual: Tower) -> list[nn.Module]:
    """As in the native ViT. A block that normalises after its attention reads its input as it is: the block before."""
    trunk = visual.trunk
    late = isinstance(trunk.blocks[-1], EvaBlockPostNorm)
    layers = list(trunk.blocks[:-1]) if late else [block.norm1 for block in trunk.blocks]
    return [*layers, trunk.norm] if _tokens_pools(visual) == "attention" else layers


def _tokens_pools(visual: Tower) -> str:
    if getattr(visual.trunk, "attn_pool", None) is not None:
        return "attention"
    return "token" if visual.trunk.global_pool == "token" else "mean"


def _tokens_patches(visual: Tower, output: Tensor) -> Tensor:
    return output[:, visual.trunk.num_prefix_tokens :]


def _tokens_stride(visual: Tower) -> tuple[int, int]:
    height, width = visual.trunk.patch_embed.feat_ratio(as_scalar=False)
    return height, width


@contextmanager
def _tokens_sized(visual: Tower, size: tuple[int, int]) -> Iterator[None]:
    """timm's own switches for dynamic sizes: positions resampled in the forward pass, rotary ones made anew."""
    trunk = visual.trunk
    if tuple(trunk.patch_embed.img_size) == tuple(size):
        yield
        return
    if not hasattr(trunk, "dynamic_img_size"):
        raise _one_size(visual, tuple(trunk.patch_embed.img_size))
    rope = getattr(trunk, "rope", None)
    with (
        _attributes(trunk, dynamic_img_size=True),
        _attributes(trunk.patch_embed, strict_img_size=False, flatten=False, output_fmt=Format.NHWC),
        nullcontext() if rope is None else _attributes(rope, pos_embed=rope.pos_embed, feat_shape=rope.feat_shape),
    ):
        if rope is not None:
            height, width = _tokens_stride(visual)
            rope.update_feat_shape([size[0] // height, size[1] // width])
        yield


def _one_size(visual: Tower, size: tuple[int, ...]) -> InputError:
    return InputError(
        f"{type(visual.trunk).__name__} takes images of {size[0]} x {size[1]} only; leave image_size out for this model"
    )


def _tokens_encode(visual: Tower, pixels: Tensor, pooling: str) -> list[Tail]:
    trunk, patches = visual.trunk, _without(visual.trunk.num_prefix_tokens)
    if _tokens_pools(visual) == "attention":
        if pooling != "model":
            raise pooled_by_attention(f"pooling '{pooling}'")
        with torch.no_grad():
            features = trunk.forward_features(pixels)
        if _reads_with_one_latent(trunk):
            return list(_latent_tails(visual, features))
        return _recorded_tails(visual, features, lambda x: visual.head(trunk.forward_head(x)), patches)
    if pooling == "token" and not trunk.num_prefix_tokens:
        raise InputError(f"{type(trunk).__name__} has no class token to pool; use pooling 'model' or 'mean'")
    layer = _tokens_layers(visual)[-1]
    tokens, block = _input_of(trunk.blocks[-1], lambda: trunk.forward_features(pixels))
    of_class_token = pooling == "token" or (pooling == "model" and _tokens_pools(visual) == "token")
    if of_class_token and _reads_with_class_token(trunk):
        return list(_class_query_tails(visual, tokens, pooling))
    with _first_row_only(trunk.blocks[-1]) if of_class_token else nullcontext():
        return _recorded_tails(
            visual,
            tokens,
            lambda x: _tokens_finish(visual, block(x), pooling),
            patches,
            None if layer in list(trunk.blocks) else layer,
        )


@contextmanager
def _first_row_only(block: Any) -> Iterator[None]:
    """Inside, the block's MLP is given the first token only, and what it says is added to every token: right for the
    first, the only one that is read of the last block's, at two thirds less of its cost, forwards and backwards."""
    if not isinstance(getattr(block, "mlp", None), (Mlp, GluMlp, SwiGLU)):  # those that take each token by itself
        yield
        return
    handle = block.mlp.register_forward_pre_hook(lambda _, inputs: (inputs[0][:, :1], *inputs[1:]))
    try:
        yield
    finally:
        handle.remove()


def _reads_with_class_token(trunk: Any) -> bool:
    """Whether the last block's attention is to keys and values linear in its normed input: no rotary positions."""
    block = trunk.blocks[-1]
    return (
        (type(block), type(getattr(block, "attn", None))) in ((Block, Attention), (EvaBlock, EvaAttention))
        and getattr(trunk, "rope", None) is None
        and block.attn.qkv is not None
        and getattr(block.attn, "gate", None) is None
        and isinstance(block.attn.k_norm, nn.Identity)
    )


@torch.no_grad()
def _class_query_tails(visual: Tower, tokens: Tensor, pooling: str) -> Iterator[QueryTail]:
    """Of the last block, whose input are tokens [B, n, C], what its class token reads (see `QueryTail`)."""
    trunk, block = visual.trunk, visual.trunk.blocks[-1]
    attention, normed = block.attn, block.norm1(tokens)
    weight, bias = attention.qkv.weight, qkv_bias(attention)
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    width = len(weight) // 3
    query = F.linear(normed[:, 0], weight[:width], bias[:width]).view(len(tokens), attention.num_heads, -1)

    def finish(i: int, attended: Tensor) -> Tensor:
        # The block itself on the class token, given what that reads off all tokens.
        handle = attention.register_forward_hook(lambda *_: merged(attention, attended)[None])
        try:
            return _tokens_finish(visual, block(tokens[i : i + 1, :1]), pooling)
        finally:
            handle.remove()

    return _query_tails(
        normed,
        trunk.num_prefix_tokens,
        attention.q_norm(query),
        weight[width:],
        bias[width:],
        lambda i, o: _recorded_rest(visual, o, lambda leaf: finish(i, leaf)),
    )


def _reads_with_one_latent(trunk: Any) -> bool:
    """Whether the pool is attention of one query that no picture changes, to keys and values linear in the tokens."""
    pool = trunk.attn_pool
    return (
        type(pool) is AttentionPoolLatent
        and (pool.latent_len == 1 or pool.pool == "token")
        and pool.pos_embed is None
        and isinstance(pool.k_norm, nn.Identity)
    )


@torch.no_grad()
def _latent_tails(visual: Tower, features: Tensor) -> Iterator[QueryTail]:
    """Of an attention pool's input, tokens [B, n, C], what its latent query reads (see `QueryTail`)."""
    trunk, prefix = visual.trunk, visual.trunk.num_prefix_tokens
    pool = trunk.attn_pool
    if not getattr(trunk, "pool_include_prefix", True):
        features, prefix = features[:, prefix:], 0
    query = pool.q_norm(pool.q(pool.latent[:, :1]).view(1, pool.num_heads, -1))
    weight = pool.kv.weight
    bias = pool.kv.bias if pool.kv.bias is not None else weight.new_zeros(len(weight))

    def finish(attended: Tensor) -> Tensor:
        x = pool.proj(attended)
        x = x if pool.mlp is None else x + pool.mlp(pool.norm(x))
        output: Tensor = visual.head(trunk.head(trunk.fc_norm(x)))
        return output

    return _query_tails(features, prefix, query, weight, bias, lambda i, o: _recorded_rest(visual, o, finish))


def _tokens_finish(visual: Tower, tokens: Tensor, pooling: str) -> Tensor:
    trunk = visual.trunk
    normed = trunk.norm(tokens)
    if pooling == "model":
        pooled = trunk.forward_head(normed)
    else:
        if _tokens_pools(visual) == "attention":
            raise pooled_by_attention(f"pooling '{pooling}'")
        one = normed[:, 0] if pooling == "token" else _tokens_patches(visual, normed).mean(1)
        pooled = trunk.head(trunk.fc_norm(one))
    output: Tensor = visual.head(pooled)
    return output


def _tokens_project(visual: Tower, tokens: Tensor) -> Tensor:
    if _tokens_pools(visual) == "attention":
        raise pooled_by_attention("an embedding of every patch")
    trunk = visual.trunk
    projected: Tensor = visual.head(trunk.head(trunk.fc_norm(trunk.norm(tokens))))
    return projected


# ----------------------------------------- timm's convolutional and windowed towers (ConvNeXt, FastViT, Swin, ResNet)

# What timm's forward_features ends with: the first of these that a trunk has.
_LAST_LAYERS = ("final_conv", "norm_pre", "norm", "bn2", "features", "layer4", "blocks", "stages")


def _is_map_trunk(visual: Tower) -> bool:
    trunk = getattr(visual, "trunk", None)
    known = any(hasattr(trunk, name) for name in ("stages", "layers", *_LAST_LAYERS))
    return known and hasattr(trunk, "feature_info") and hasattr(trunk, "forward_head") and not _is_token_trunk(visual)


def _maps_layers(visual: Tower) -> list[nn.Module]:
    """The stages, then the last layer before pooling: the classical choice for convolutional networks."""
    trunk = visual.trunk
    stages = next((getattr(trunk, name) for name in ("stages", "layers", "blocks") if hasattr(trunk, name)), ())
    numbered = [getattr(trunk, f"layer{i}") for i in range(1, 5) if hasattr(trunk, f"layer{i}")]  # ResNets
    last = next(getattr(trunk, name) for name in _LAST_LAYERS if hasattr(trunk, name))
    return list(dict.fromkeys([*(stages or numbered), last]))


def _maps_patches(visual: Tower, output: Tensor) -> Tensor:
    return output.flatten(1, 2) if _channels_last(visual) else output.flatten(2).mT


def _channels_last(visual: Tower) -> bool:
    return bool(getattr(visual.trunk, "output_fmt", "NCHW") == "NHWC")


def _maps_stride(visual: Tower) -> tuple[int, int]:
    reduction = visual.trunk.feature_info[-1]["reduction"]
    return reduction, reduction


def _maps_shift(visual: Tower) -> tuple[float, float]:
    return _convolutional_shift(visual.trunk, pair(visual.image_size))


@contextmanager
def _maps_sized(visual: Tower, size: tuple[int, int]) -> Iterator[None]:
    patch_embed = getattr(visual.trunk, "patch_embed", None)  # windowed attention; convolutions take any size
    if patch_embed is not None and tuple(patch_embed.img_size) != tuple(size):
        raise _one_size(visual, tuple(patch_embed.img_size))
    yield


def _maps_encode(visual: Tower, pixels: Tensor, pooling: str) -> list[Tail]:
    _only_own_pooling(pooling)
    with torch.no_grad():
        features = visual.trunk.forward_features(pixels)
    height, width = _maps_stride(visual)
    cells = (-(-pixels.shape[2] // height), -(-pixels.shape[3] // width))
    found = tuple(features.shape[1:3] if _channels_last(visual) else features.shape[2:])
    if found != cells:  # another grid than its stride says: every cell would land on the wrong pixels
        raise unsupported(f"{type(visual.trunk).__name__} with features of shape {list(features.shape[1:])}")
    return _recorded_tails(
        visual,
        features,
        lambda x: visual.head(visual.trunk.forward_head(x)),
        lambda output: _maps_patches(visual, output),
    )


def _only_own_pooling(pooling: str) -> None:
    if pooling != "model":
        raise InputError(f"pooling '{pooling}' is for transformers with patch tokens; use pooling 'model'")


# ----------------------------------------------------------------------------------- CLIP's ResNets (attention pooling)


def _resnet_patches(visual: Tower, output: Tensor) -> Tensor:
    return output.flatten(2).mT


def _resnet_sized(visual: Tower, size: tuple[int, int]) -> AbstractContextManager[None]:
    height, width = pair(visual.image_size)
    return _resized_positions(visual.attnpool, (height // 32, width // 32), (size[0] // 32, size[1] // 32))


def _resnet_encode(visual: Tower, pixels: Tensor, pooling: str) -> list[Tail]:
    _only_own_pooling(pooling)
    features, _ = _input_of(visual.attnpool, lambda: visual(pixels))
    return list(_mean_query_tails(visual, _resnet_patches(visual, features)))


@torch.no_grad()
def _mean_query_tails(visual: Tower, cells: Tensor) -> Iterator[QueryTail]:
    """Of the attention pool only what its first token asks, the mean of the cells [B, N, C] (see `QueryTail`)."""
    pool = visual.attnpool

    def split(x: Tensor) -> Tensor:
        return x.float().view(*x.shape[:-1], pool.num_heads, -1)

    def weight(projection: nn.Linear) -> Tensor:
        return projection.weight.float().view(pool.num_heads, -1, cells.shape[-1])

    positions = pool.positional_embedding.to(cells.dtype)
    tokens = torch.cat([cells.mean(1, keepdim=True), cells], 1) + positions
    # Values are linear in the cells but for what is the same in every picture: bias, and value of the position.
    content, bias = split(F.linear(cells, pool.v_proj.weight)), split(pool.v_proj(positions))
    values = torch.cat([content.mean(1, keepdim=True), content], 1) + bias
    keys = split(pool.k_proj(tokens)) * content.shape[-1] ** -0.5
    query, asked = split(pool.q_proj(tokens[:, 0])), split(F.linear(cells, pool.q_proj.weight))
    weights = torch.einsum("bhc,bmhc->bmh", query, keys).softmax(1)
    attended = torch.einsum("bmh,bmhc->bhc", weights, values)
    query_keys = torch.einsum("bhc,hck->bhk", query * content.shape[-1] ** -0.5, weight(pool.k_proj))
    for i, own in enumerate(cells.float()):
        embedding, pull_back = _recorded_rest(visual, attended[i].flatten(), pool.c_proj)
        yield QueryTail(
            activations=own,
            weights=weights[i, 1:],
            content=content[i],
            bias=bias[1:],
            match=own @ query_keys[i].T,
            attended=attended[i],
            query_keys=query_keys[i],
            value_weight=weight(pool.v_proj),
            embedding=embedding,
            pull_back_rest=pull_back,
            mean=MeanToken(weights[i], values[i] - attended[i], keys[i], asked[i], weight(pool.q_proj)),
        )


_TOKEN_MODULES = ("vision_transformer", "eva", "vitamin", "vision_transformer_relpos", "vision_transformer_hybrid")
_MAP_MODULES = ("convnext", "fastvit", "swin_transformer")


def _timm_module_in(*modules: str) -> Callable[[dict[str, Any]], bool]:
    def matches(config: dict[str, Any]) -> bool:
        name = config.get("timm_model_name")
        return name is not None and bool(timm.models.is_model_in_modules(name, modules))

    return matches


FAMILIES: tuple[Family, ...] = (
    Family(
        name="vit",
        towers="open_clip's own ViT: OpenAI, LAION, BioCLIP, CLIPA, CoCa, multilingual ones",
        layer="`ln_1` of the last block; with attention pooling the pool's `ln_k`",
        pooling="class token, mean, attention",
        matches=lambda visual: isinstance(visual, VisionTransformer),
        matches_config=lambda config: "timm_model_name" not in config and not isinstance(config.get("layers"), list),
        layers=_vit_layers,
        patches=_vit_patches,
        stride=_vit_stride,
        shift=_no_shift,
        sized=_vit_sized,
        encode=_vit_encode,
        tokens=Tokens(lambda visual: list(visual.transformer.resblocks), _vit_pools, _vit_finish, _vit_project),
    ),
    Family(
        name="timm-vit",
        towers="SigLIP and SigLIP 2, EVA, PE-Core, ViTamin, MobileCLIP-B and -L; of timm DINOv2 and other ViTs",
        layer="`norm1` of the last block, or its input if it normalises late; with attention pooling the last norm",
        pooling="class token, mean, attention",
        matches=_is_token_trunk,
        matches_config=_timm_module_in(*_TOKEN_MODULES),
        layers=_tokens_layers,
        patches=_tokens_patches,
        stride=_tokens_stride,
        shift=_tokens_shift,
        sized=_tokens_sized,
        encode=_tokens_encode,
        tokens=Tokens(lambda visual: list(visual.trunk.blocks), _tokens_pools, _tokens_finish, _tokens_project),
    ),
    Family(
        name="timm-maps",
        towers="ConvNeXt, MobileCLIP-S (FastViT), Swin; of timm ResNet, EfficientNet and other CNNs",
        layer="the last feature map",
        pooling="mean",
        matches=_is_map_trunk,
        matches_config=_timm_module_in(*_MAP_MODULES),
        layers=_maps_layers,
        patches=_maps_patches,
        stride=_maps_stride,
        shift=_maps_shift,
        sized=_maps_sized,
        encode=_maps_encode,
        partial=True,
    ),
    Family(
        name="resnet",
        towers="CLIP's ModifiedResNet, RN50 to RN50x64",
        layer="`layer4`",
        pooling="attention",
        matches=lambda visual: isinstance(visual, ModifiedResNet),
        matches_config=lambda config: isinstance(config.get("layers"), list),
        layers=lambda visual: [visual.layer1, visual.layer2, visual.layer3, visual.layer4],
        patches=_resnet_patches,
        stride=lambda visual: (32, 32),
        shift=lambda visual: _convolutional_shift(visual, pair(visual.image_size)),
        sized=_resnet_sized,
        encode=_resnet_encode,
    ),
)
