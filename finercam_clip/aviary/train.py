"""Trains the bundled model on the aviary: `python -m finercam_clip.aviary.train --output weights`.

A small CLIP (open_clip's own ViT and text tower) learns from pictures and texts alone. Every step it sees a batch of
birds that no evaluation draws, and answers questions about each picture:

* *traits*: every trait of the world, phrased at random, is a text; in each slot the true one must win. This is
  zero-shot classification turned into a loss, and what makes a small model learn quickly.
* *captions*: InfoNCE between pictures and captions of one to four traits, with the same caption with one trait changed
  as a hard negative. A caption of another bird that happens to be true of this one is no negative.
* *generic*, in the last stage: a generic text must lie between the traits that are true of the picture and those that
  are not.
* *peaks* and *agreement*, in the last stages, of what single patches say for a text (the model's own slopes, the same
  that HiResCAM multiplies): the best patch alone must tell each trait, and the difference of two captions must be seen
  where the one trait that differs is seen when it is asked about by itself.

Labels are per image: which traits a bird has, never where they are. Part masks are not drawn in training at all.
Two things keep what is known about a place at that place, as far as a ViT can (see `look`): most steps see
local attention only, and the class token of the last block is another picture's.
Coarse to fine: small pictures first, then the final size with interpolated position embeddings.
The run writes a checkpoint every few minutes and goes on from it; batch n is a function of n, so resuming is exact.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import resize_pos_embed
from safetensors.torch import load_file, safe_open, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset

from finercam_clip.aviary import world
from finercam_clip.options import Options

CONFIG = Path(__file__).parent / "weights" / "open_clip_config.json"
GAMMA = Options.gamma
EVIDENCE_SCALE = 4.0  # a patch holds a quarter of what the whole picture has to say, if few patches are to hold it all
HELD_OUT_LOG_SEED = 900_000_000  # for the figures in the log; other held-out seeds stay unseen by anybody


@dataclass(frozen=True)
class Stage:
    """A part of the curriculum: `steps` on pictures of `size` pixels, the learning rate falling linearly.

    borrowed: the last block's class token is another picture's; local: the share of steps that see local attention;
    see `look`. hard: slots weigh as much as they are unsolved, see `trait_loss`. captions: the weight of the caption
    loss; that of the trait loss is 1. pairs: the share of pictures with two birds. evidence: the weight of the two
    losses on what single patches say, `peak_loss` and `agreement_loss`; generic: that of `generic_loss`.
    """

    size: int
    steps: int
    rates: tuple[float, float]
    borrowed: bool = True
    local: float = 1.0
    hard: bool = True
    captions: float = 0.25
    pairs: float = 0.0
    evidence: float = 0.0
    generic: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, apart from the world and the architecture."""

    stages: tuple[Stage, ...] = (
        Stage(64, 3000, (1e-3, 6e-4), borrowed=False, local=0.0, hard=False, captions=0.0),
        Stage(64, 1500, (6e-4, 5e-4)),
        Stage(96, 2000, (5e-4, 3e-4), local=0.7, captions=0.5, pairs=0.1),
        Stage(128, 1000, (4e-4, 0.0), local=0.5, captions=1.0, pairs=0.1),
        Stage(128, 2100, (5e-4, 0.0), local=0.5, captions=1.0, pairs=0.1, evidence=1.0),
        Stage(160, 1000, (4e-4, 0.0), local=0.5, captions=1.0, pairs=0.1, evidence=1.0, generic=0.25),
    )
    batch: int = 64
    weight_decay: float = 0.02
    warmup: int = 400
    checkpoint_every: int = 250


class Pictures(Dataset[tuple[Tensor, Tensor]]):
    """Sample i of a run: a normalised picture [3, S, S] and the values in every slot of its two birds, [2, slots].

    A picture of one bird gives its values twice. pairs: the share of pictures with two. seen: draw birds of training,
    without the combinations that it must not see.
    """

    def __init__(
        self, size: int, seeds: range, mean: list[float], std: list[float], *, pairs: float = 0.0, seen: bool = True
    ) -> None:
        self.size, self.seeds, self.pairs = size, seeds, pairs
        self.sample = world.sample_training_bird if seen else world.sample_bird
        self.mean, self.std = np.array(mean, np.float32), np.array(std, np.float32)

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        seed = self.seeds[i]
        rng = np.random.default_rng(seed)
        birds = tuple(self.sample(rng) for _ in range(1 + (rng.random() < self.pairs)))
        image = world.draw(birds, (seed, 1), size=self.size, masks=False).image
        pixels = ((image.astype(np.float32) / 255 - self.mean) / self.std).transpose(2, 0, 1)
        values = [[world.SLOTS[slot].index(value) for slot, value in bird.traits] for bird in (birds[0], birds[-1])]
        return torch.from_numpy(np.ascontiguousarray(pixels)), torch.tensor(values)


def build_model(size: int) -> open_clip.CLIP:
    """The bundled architecture with fresh weights, for pictures of `size` pixels."""
    config = json.loads(CONFIG.read_text())["model_cfg"]
    config["vision_cfg"]["image_size"] = size
    return open_clip.CLIP(**config, init_logit_scale=math.log(25.0))


@dataclass(frozen=True, eq=False)
class Look:
    """What the model makes of a batch of pictures. embeddings: unit norm, [B, D]; patches: [B, N, C], and pull_back,
    directions [K, B, D] -> [K, B, C]: their product is what each patch adds to a similarity (HiResCAM at the last
    block, as `tails.QueryTail.gate_features` has it, but with its own gradient)."""

    embeddings: Tensor
    patches: Tensor
    pull_back: Callable[[Tensor], Tensor]

    def evidence(self, directions: Tensor) -> Tensor:
        """What each patch says for directions [K, D] or, one a picture, [K, B, D]: [B, K, N]."""
        if directions.ndim == 2:
            directions = directions[:, None].expand(-1, len(self.embeddings), -1)
        return torch.einsum("kbc,bnc->bkn", self.pull_back(directions), self.patches)


def look(model: open_clip.CLIP, pixels: Tensor, *, borrowed: bool, local: bool) -> Look:
    """The image tower, by a path that can keep what is known about a place at that place.

    borrowed: in the last block each class token is another picture's, so the embedding can hold nothing of this one but
    what that token reads off the patches there, which is what a map at that block explains. local: in the blocks
    before, a patch attends to its neighbours only, and to no class token, so it learns of nothing but its surroundings.
    At inference there is neither; by then the model has learned not to care.
    """
    visual = model.visual
    *blocks, last = visual.transformer.resblocks
    x = visual._embeds(pixels)
    mask = local_attention(visual.grid_size).to(x) if local else None
    for block in blocks:
        x = block(x, attn_mask=mask)
    if borrowed:
        x = torch.cat([x[:, :1].roll(1, 0), x[:, 1:]], 1)
    # Of the last block only the class token's row is ever read; in float32, since its slopes are trained as well.
    with torch.autocast(x.device.type, enabled=False):
        x = x.float()
        tokens, heads = last.ln_1(x), last.attn.num_heads
        projected = F.linear(tokens, last.attn.in_proj_weight, last.attn.in_proj_bias)
        query, keys, values = (part.view(*part.shape[:2], heads, -1) for part in projected.chunk(3, -1))
        scores = torch.einsum("bhc,bnhc->bnh", query[:, 0] * query.shape[-1] ** -0.5, keys)
        weights = scores.softmax(1)[..., None]
        attended = (weights * values).sum(1, keepdim=True)
        width = tokens.shape[-1]
        key_bias, value_bias = (part.view(heads, -1) for part in last.attn.in_proj_bias[width:].chunk(2))
        match = torch.einsum("bhc,bnhc->bnh", query[:, 0] * query.shape[-1] ** -0.5, keys - key_bias)
        patches = weights * (values - value_bias + match[..., None] * (values - attended))

        def rest(o: Tensor) -> Tensor:
            y = x[:, 0] + last.attn.out_proj(o)
            y = y + last.mlp(last.ln_2(y))
            return F.normalize(visual.ln_post(y) @ visual.proj, dim=-1)

        embeddings, pull_back, *_ = torch.func.vjp(rest, attended[:, 0].flatten(1))
    return Look(embeddings, patches[:, 1:].flatten(2), torch.func.vmap(lambda d: pull_back(d)[0]))


def local_attention(grid: tuple[int, int]) -> Tensor:
    """Additive mask [1 + N, 1 + N]: patches attend to patches at most one cell away, and to no class token."""
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    cells = torch.stack([rows.flatten(), columns.flatten()], 1)
    mask = torch.zeros(1 + len(cells), 1 + len(cells))
    mask[1:, 0] = -torch.inf
    mask[1:, 1:].masked_fill_((cells[:, None] - cells).abs().amax(-1) > 1, -torch.inf)
    return mask


def encode_texts(model: open_clip.CLIP, tokens: Tensor) -> Tensor:
    """`model.encode_text`, normalised, without the columns that are padding in every row (attention is causal)."""
    length = int((tokens != 0).sum(1).max())
    x = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    x = model.ln_final(x)[torch.arange(len(x)), tokens.argmax(1)]
    return F.normalize(x @ model.text_projection, dim=-1)


def trait_loss(similarities: Tensor, values: Tensor, *, hard: bool) -> Tensor:
    """Mean cross-entropy over slots. similarities: scaled, [B, all traits]; values: true indices, [B, 2 birds, slots].

    hard: each slot's is in units of its chance level, log of the number of its values, and weighs as much as it is
    still unsolved, so that what is not learned yet (small shapes and patterns) is not drowned by what is. Where two
    birds differ, both values are true and each should get half of the probability.
    """
    losses, start = [], 0
    for column, options in enumerate(world.SLOTS.values()):
        log_p = similarities[:, start : start + len(options)].log_softmax(-1)
        loss = -log_p.gather(1, values[:, :, column]).mean()
        losses.append(loss / math.log(len(options)) if hard else loss)
        start += len(options)
    each = torch.stack(losses)
    return (each.detach() / each.detach().sum() * each).sum() if hard else each.mean()


def caption_loss(similarities: Tensor, true: Tensor) -> Tensor:
    """InfoNCE. similarities: scaled, [B images, 2B texts], text i < B is the caption of image i and text B + i the same
    with one trait changed; true[i, j]: whether text j is true of image i (such pairs are no negatives)."""
    own = torch.arange(len(similarities), device=similarities.device)
    negatives = true.clone()
    negatives[own, own] = False
    masked = similarities.masked_fill(negatives, -torch.inf)
    from_images = F.cross_entropy(masked, own)
    from_texts = F.cross_entropy(masked[:, : len(own)].T, own)
    return (from_images + from_texts) / 2


def peak_loss(evidence: Tensor, values: Tensor) -> Tensor:
    """`trait_loss` of what the patches say each by itself instead of all together, mean over slots, in units of chance.

    evidence: scaled, [B, all traits, N]. A trait's score is the soft maximum over patches of its lead over the mean of
    its slot (multiple-instance learning: some patch, the loss does not know which, must tell on its own). So that
    evidence gathers in few patches and the best patch of a small or faint part says as much as that of a large one.
    """
    losses, start = [], 0
    for column, options in enumerate(world.SLOTS.values()):
        lead = evidence[:, start : start + len(options)]
        scores = (lead - lead.mean(1, keepdim=True)).logsumexp(2)
        losses.append(-scores.log_softmax(-1).gather(1, values[:, :, column]).mean() / math.log(len(options)))
        start += len(options)
    return torch.stack(losses).mean()


def generic_loss(similarities: Tensor, values: Tensor) -> Tensor:
    """Logistic loss of true traits above a generic text ("a bird on a branch") and false ones below it, both halves
    weighing the same: so that against it as the contrast a trait tells whether it is there.

    similarities: scaled, [B, all texts], the traits first and the generic text last; values: [B, 2 birds, slots].
    """
    starts = np.cumsum([0, *(len(options) for options in world.SLOTS.values())])
    true = torch.zeros(len(values), int(starts[-1]), dtype=torch.bool, device=similarities.device)
    true.scatter_(1, (values + torch.from_numpy(starts[:-1]).to(values)).flatten(1), True)
    lead = similarities[:, : true.shape[1]] - similarities[:, -1:]
    return (F.softplus(-lead[true]).mean() + F.softplus(lead[~true]).mean()) / 2


def agreement_loss(whole: Tensor, part: Tensor) -> Tensor:
    """Cross-entropy between where the difference of two captions is seen and where the one trait that differs is.

    whole: scaled evidence for a caption against the caption with one trait changed, [B, N]; part: for that trait alone
    against its change; it is what the first is measured by, and gets no gradient.
    """
    return -(part.detach().softmax(-1) * whole.log_softmax(-1)).sum(-1).mean()


def draw_captions(values: Tensor, rng: np.random.Generator) -> tuple[list[str], Tensor, Tensor]:
    """Captions [2B] for a batch (see `caption_loss`), which are true of a bird of which image, bool [B, 2B], and the
    trait that was changed, before and after: indices in world.TRAITS, [2, B].

    values: [B, 2 birds, slots]; the captions are about the first bird.
    """
    names, options = list(world.SLOTS), list(world.SLOTS.values())
    starts = np.cumsum([0, *map(len, options)])
    swaps = np.zeros((2, len(values)), int)
    texts: list[str] = []
    changed_texts: list[str] = []
    claims = np.full((2 * len(values), len(names)), -1)
    for i, (row, neighbour) in enumerate(values.numpy()):
        slots = rng.permutation(len(names))[: rng.integers(1, 5)]
        changed = rng.choice(slots)
        claims[i, slots] = claims[len(values) + i, slots] = row[slots]
        # Another value, false of both birds; if it makes a combination that training must not see, the next one.
        others = [v for v in range(len(options[changed])) if v not in (row[changed], neighbour[changed])]
        for other in rng.permutation(others):
            claims[len(values) + i, changed] = other
            if not world.is_unseen(tuple((names[s], options[s][claims[len(values) + i, s]]) for s in slots)):
                break
        swaps[:, i] = starts[changed] + claims[[i, len(values) + i], changed]
        state = rng.integers(1 << 32)  # both captions in the same words
        for claim, into in ((claims[i], texts), (claims[len(values) + i], changed_texts)):
            traits = tuple((names[s], options[s][claim[s]]) for s in slots)
            into.append(world.describe(traits, np.random.default_rng(state)))
    claimed = torch.from_numpy(claims)[None, None]
    true = ((claimed == values[:, :, None]) | (claimed < 0)).all(-1).any(1)
    return texts + changed_texts, true, torch.from_numpy(swaps)


def train(recipe: Recipe, output: Path, *, device: str, log: Path) -> None:
    """Runs `recipe` from the start or from `output`'s checkpoint; ends with the packaged weights in `output`."""
    output.mkdir(parents=True, exist_ok=True)
    checkpoint = output / "training.safetensors"
    config = json.loads(CONFIG.read_text())
    mean, std = config["preprocess_cfg"]["mean"], config["preprocess_cfg"]["std"]
    tokenizer = open_clip.SimpleTokenizer(context_length=config["model_cfg"]["text_cfg"]["context_length"])
    total = sum(stage.steps for stage in recipe.stages)
    torch.manual_seed(0)
    model = build_model(recipe.stages[0].size).to(device)
    seen = torch.zeros(config["model_cfg"]["text_cfg"]["vocab_size"], dtype=torch.bool)
    optimizer = make_optimizer(model, recipe)
    step = first_step = 0
    if checkpoint.exists():
        step = first_step = int(_metadata(checkpoint)["step"])
        model = build_model(int(_metadata(checkpoint)["size"])).to(device)
        optimizer = make_optimizer(model, recipe)
        _restore(checkpoint, model, optimizer, seen)
    began = time.monotonic()
    averages: dict[str, float] = {}
    for stage, stop in _stages_left(recipe, step):
        size = stage.size
        if model.visual.image_size[0] != size:
            model = _resized(model, size).to(device)
            optimizer = make_optimizer(model, recipe)
        seeds = range(world.TRAINING_SEEDS + step * recipe.batch, world.TRAINING_SEEDS + stop * recipe.batch)
        data = Pictures(size, seeds, mean, std, pairs=stage.pairs)
        for pixels, values in DataLoader(data, batch_size=recipe.batch, num_workers=1, prefetch_factor=4):
            rng = np.random.default_rng((world.TRAINING_SEEDS, step))
            for group in optimizer.param_groups:
                group["lr"] = _learning_rate(stage, stop - step) * min(1.0, (step + 1) / recipe.warmup)
            captions, true, swaps = draw_captions(values, rng) if stage.captions else ([], values, values)
            texts = [world.describe((trait,), rng) for trait in world.TRAITS] + captions + [world.describe((), rng)]
            tokens = tokenizer(texts)
            seen[tokens.unique()] = True
            # The plain attention kernel: on CPU twice as fast as the fused one for these short rows.
            with torch.autocast(device, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
                seen_as = look(model, pixels.to(device), borrowed=stage.borrowed, local=rng.random() < stage.local)
                embeddings = encode_texts(model, tokens.to(device)).float()
            scale = model.logit_scale.exp().clamp(max=100)
            similarities = scale * seen_as.embeddings @ embeddings.T
            traits = trait_loss(similarities[:, : len(world.TRAITS)], values.to(device), hard=stage.hard)
            loss = traits
            parts = {"traits": traits}
            if captions:
                parts["captions"] = caption_loss(similarities[:, len(world.TRAITS) : -1], true.to(device))
                loss = traits + stage.captions * parts["captions"]
            if stage.evidence:
                single = embeddings[: len(world.TRAITS)]
                parts["peaks"] = peak_loss(EVIDENCE_SCALE * scale * seen_as.evidence(single), values.to(device))
                before, after = single[swaps]
                pairs = embeddings[len(world.TRAITS) : -1].view(2, len(values), -1)
                asked = torch.stack([pairs[0] - GAMMA * pairs[1], before - GAMMA * after])
                whole, part = (EVIDENCE_SCALE * scale * seen_as.evidence(asked)).unbind(1)
                parts["agreement"] = agreement_loss(whole, part)
                loss = loss + stage.evidence * (parts["peaks"] + parts["agreement"])
            if stage.generic:
                parts["generic"] = generic_loss(similarities, values.to(device))
                loss = loss + stage.generic * parts["generic"]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            for name, value in parts.items():
                averages[name] = 0.98 * averages.get(name, value.item()) + 0.02 * value.item()
            if step % 100 == 0:
                rate = (step - first_step) * recipe.batch / (time.monotonic() - began)
                _log(log, f"step {step}/{total} size {size} " + " ".join(f"{k} {v:.3f}" for k, v in averages.items())
                     + f" scale {scale.item():.1f} {rate:.0f} images/s")  # fmt: skip
            if step % recipe.checkpoint_every == 0 or step == total:
                right = trait_accuracy(*held_out(model, tokenizer, mean, std))
                _log(log, f"step {step} held-out trait accuracy: {right}")
                _save(checkpoint, model, optimizer, seen, step, size)
    package(model, seen, output, present_above(*held_out(model, tokenizer, mean, std)))
    _log(log, f"done: {output / 'open_clip_model.safetensors'}")


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only; the token table decays not at all, since most rows are never seen."""
    matrices = [p for n, p in model.named_parameters() if p.ndim >= 2 and "embedding" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim < 2 or "embedding" in n]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


@torch.no_grad()
def held_out(model: open_clip.CLIP, tokenizer: Any, mean: list[float], std: list[float]) -> tuple[Tensor, Tensor]:
    """Cosines of 256 held-out birds with every trait by itself, [256, traits], and the birds' values, [256, slots]."""
    seeds, size = range(HELD_OUT_LOG_SEED, HELD_OUT_LOG_SEED + 256), model.visual.image_size[0]
    data = Pictures(size, seeds, mean, std, seen=False)
    pixels, values = (torch.stack(column) for column in zip(*(data[i] for i in range(len(data))), strict=True))
    device = next(model.parameters()).device
    model.eval()
    images = torch.cat([model.encode_image(chunk.to(device)) for chunk in torch.split(pixels, 64)]).cpu()
    texts = encode_texts(model, tokenizer([world.describe((trait,)) for trait in world.TRAITS]).to(device)).cpu()
    model.train()
    return F.normalize(images, dim=-1) @ texts.T, values[:, 0]


def trait_accuracy(cosines: Tensor, values: Tensor) -> str:
    """Zero-shot accuracy in every slot of what `held_out` gives, as one line for the log."""
    slots = torch.split(cosines, [len(options) for options in world.SLOTS.values()], 1)  # type: ignore[no-untyped-call]
    right = [(own.argmax(1) == values[:, column]).float().mean() for column, own in enumerate(slots)]
    return ", ".join(f"{slot} {float(share):.2f}" for slot, share in zip(world.SLOTS, right, strict=True))


def present_above(cosines: Tensor, values: Tensor) -> float:
    """The cosine that all but 1 % of the true traits of what `held_out` gives reach."""
    slots = torch.split(cosines, [len(options) for options in world.SLOTS.values()], 1)  # type: ignore[no-untyped-call]
    true = torch.cat([own.gather(1, values[:, column : column + 1]) for column, own in enumerate(slots)])
    return float(true.quantile(0.01))


def package(model: open_clip.CLIP, seen: Tensor, output: Path, present: float) -> None:
    """Writes the weights as fp16 safetensors, with `present_above`; rows of the token table that training never saw
    become exactly zero."""
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    state["token_embedding.weight"] = state["token_embedding.weight"] * seen[:, None]
    half = {name: tensor.half().contiguous() for name, tensor in state.items()}
    save_file(half, output / "open_clip_model.safetensors", metadata={"present_above": f"{present:.3f}"})


def _stages_left(recipe: Recipe, step: int) -> Iterator[tuple[Stage, int]]:
    """The stages that are not over at `step`, each with the step at which it ends."""
    end = 0
    for stage in recipe.stages:
        end += stage.steps
        if step < end:
            yield stage, end


def _learning_rate(stage: Stage, left: int) -> float:
    first, last = stage.rates
    return last + (first - last) * left / stage.steps


def _resized(model: open_clip.CLIP, size: int) -> open_clip.CLIP:
    state = model.state_dict()
    larger = build_model(size)
    resize_pos_embed(state, larger)
    larger.load_state_dict(state)
    return larger


def _save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, seen: Tensor, step: int, size: int) -> None:
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    tensors["seen"] = seen
    save_file(
        {k: v.contiguous() for k, v in tensors.items()},
        path.with_suffix(".part"),
        {"step": str(step), "size": str(size)},
    )
    path.with_suffix(".part").replace(path)


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return dict(file.metadata())


def _restore(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, seen: Tensor) -> None:
    tensors = load_file(path)
    seen |= tensors.pop("seen")
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _log(path: Path, line: str) -> None:
    print(line, flush=True)
    with path.open("a") as file:
        file.write(line + "\n")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train the bundled model on the aviary (resumes where it stopped).")
    parser.add_argument(
        "--output", type=Path, default=Path("aviary-weights"), help="folder for checkpoint, log, weights"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    train(Recipe(), options.output, device=options.device, log=options.output / "training.log")
    return 0


if __name__ == "__main__":
    sys.exit(main())
