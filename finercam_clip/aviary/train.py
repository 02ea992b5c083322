"""Trains the bundled model on the aviary: `python -m finercam_clip.aviary.train --output weights`.

A small CLIP (open_clip's own ViT and text tower) learns from pictures and texts alone. In every step it sees a batch of
birds that no evaluation draws, and up to five losses are added up (`losses` has their formulas):

* *traits*: every trait of the world, phrased at random, is a text, and in each slot the true one must win. This is
  zero-shot classification turned into a loss. It is what makes a small model learn quickly.
* *captions*: InfoNCE between pictures and captions of one to four traits. The same caption with one trait changed is a
  hard negative. A caption of another bird that happens to be true of this one is no negative.
* *peaks* and *agreement*, in the last stages, are about what single patches say for a text (by the model's own slopes,
  which HiResCAM multiplies too). The best patch alone must tell each trait. And the difference of two captions must be
  seen where the one trait that differs is seen if it is asked about by itself.
* *generic*, in the last stage: a generic text must lie between the traits that are true of the picture and those that
  are not.

Labels are per image: which traits a bird has, never where they are. Part masks are not drawn in training at all.
Two habits keep what is known about a place at that place, as far as a ViT can (see `network.look`). Most steps see
local attention only, and the class token of the last block is another picture's.
Training goes from coarse to fine: small pictures first, then the final size with interpolated position embeddings.

The run writes a checkpoint every few minutes and goes on from it. Batch n is a function of n, and the checkpoint holds
all other state. So resuming is exact: on the same CPU the run ends with the same weights, bit for bit. (On a GPU some
sums have no fixed order.)
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader

from finercam_clip.aviary import losses, world
from finercam_clip.aviary.network import build_model, look, read_config, resized
from finercam_clip.aviary.samples import Captions, Pictures, draw_captions
from finercam_clip.options import Options
from finercam_clip.training import (
    WEIGHTS,
    caption_loss,
    checkpoint_metadata,
    descend,
    encode_texts,
    follow,
    logit_scale,
    make_optimizer,
    note,
    package,
    restore,
    save_checkpoint,
    set_rate,
)

GAMMA = Options.gamma
EVIDENCE_SCALE = 4.0  # if few patches are to hold all that a picture has to say, one of them holds a quarter of it
HELD_OUT_LOG_SEED = 900_000_000  # of the birds behind the figures in the log; all other held-out seeds stay unseen
HELD_OUT_BIRDS = 256
_TRAITS = len(world.TRAITS)


@dataclass(frozen=True)
class Stage:
    """A part of the curriculum.

    Attributes:
        size: Pixels along each side of the pictures.
        steps: How many batches.
        rates: The learning rate at the beginning and at the end; it falls linearly.
        borrowed: Whether the last block's class token is another picture's; see `network.look`.
        local: The share of steps that see local attention only, 0..1; see `network.look`.
        hard: Whether slots weigh as much as they are unsolved; see `losses.trait_loss`.
        captions: The weight of the caption loss. That of the trait loss is 1.
        pairs: The share of pictures with two birds, 0..1.
        evidence: The weight of the two losses on what single patches say, `losses.peak_loss` and
            `losses.agreement_loss`.
        generic: The weight of `losses.generic_loss`.
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

    def __post_init__(self) -> None:
        """Refuses a stage whose agreement loss would have no captions to compare."""
        if self.evidence and not self.captions:
            raise ValueError("a stage with evidence needs captions")


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, apart from the world and the architecture.

    Attributes:
        stages: The curriculum, in order.
        batch: Pictures per step.
        weight_decay: AdamW's, for matrices.
        warmup: Steps in which the learning rate rises from 0.
        checkpoint_every: Steps from one checkpoint to the next.
    """

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


def train(recipe: Recipe, output: Path, *, device: str, log: Path) -> None:
    """Runs a recipe from its start, or from the checkpoint in `output`, and packages the weights there.

    Args:
        recipe: What to do. It must be the one that the checkpoint was made with.
        output: The folder of the checkpoint and the weights.
        device: A torch device, as "cpu".
        log: The file that lines about the run are appended to; they are printed too.
    """
    output.mkdir(parents=True, exist_ok=True)
    checkpoint = output / "training.safetensors"
    config = read_config()
    mean, std = config["preprocess_cfg"]["mean"], config["preprocess_cfg"]["std"]
    tokenizer = open_clip.SimpleTokenizer(context_length=config["model_cfg"]["text_cfg"]["context_length"])
    total = sum(stage.steps for stage in recipe.stages)
    torch.manual_seed(0)
    seen = torch.zeros(config["model_cfg"]["text_cfg"]["vocab_size"], dtype=torch.bool)
    saved = checkpoint_metadata(checkpoint)
    step = first_step = int(saved.get("step", 0))
    model = build_model(int(saved.get("size", recipe.stages[0].size))).to(device)
    optimizer = make_optimizer(model, recipe.weight_decay)
    if saved:
        restore(checkpoint, model, optimizer, seen)
    began = time.monotonic()
    averages: dict[str, float] = {}
    for stage, stop in _stages_left(recipe, step):
        if model.visual.image_size[0] != stage.size:
            model = resized(model, stage.size).to(device)
            optimizer = make_optimizer(model, recipe.weight_decay)
        seeds = range(world.TRAINING_SEEDS + step * recipe.batch, world.TRAINING_SEEDS + stop * recipe.batch)
        data = Pictures(stage.size, seeds, mean, std, pairs=stage.pairs)
        for pixels, values in DataLoader(data, batch_size=recipe.batch, num_workers=1, prefetch_factor=4):
            rng = np.random.default_rng((world.TRAINING_SEEDS, step))
            set_rate(optimizer, _learning_rate(stage, stop - step) * min(1.0, (step + 1) / recipe.warmup))
            captions = draw_captions(values, rng) if stage.captions else None
            tokens = tokenizer(_texts(captions, rng))
            seen[tokens.unique()] = True
            local = rng.random() < stage.local
            parts = batch_losses(model, stage, pixels.to(device), values.to(device), tokens.to(device), captions, local)
            descend(model, optimizer, weighted(parts, stage))
            step += 1
            means = follow(averages, parts, 0.02)
            if step % 100 == 0:
                rate = (step - first_step) * recipe.batch / (time.monotonic() - began)
                scale = logit_scale(model).item()
                note(log, f"step {step}/{total} size {stage.size} {means} scale {scale:.1f} {rate:.0f} images/s")
            if step % recipe.checkpoint_every == 0 or step == total:
                accuracy = trait_accuracy(*held_out(model, tokenizer, mean, std))
                note(log, f"step {step} held-out trait accuracy: {accuracy}")
                at = {"step": str(step), "size": str(stage.size)}
                save_checkpoint(checkpoint, model, optimizer, seen, at)
    package(model, seen, output, present_above(*held_out(model, tokenizer, mean, std)))
    note(log, f"done: {output / WEIGHTS}")


def _texts(captions: Captions | None, rng: np.random.Generator) -> list[str]:
    """The texts of a step: every trait by itself, the captions, and last a generic text."""
    traits = [world.describe((trait,), rng) for trait in world.TRAITS]
    return [*traits, *(captions.texts if captions else ()), world.describe((), rng)]


def batch_losses(
    model: open_clip.CLIP,
    stage: Stage,
    pixels: Tensor,
    values: Tensor,
    tokens: Tensor,
    captions: Captions | None,
    local: bool,
) -> dict[str, Tensor]:
    """The losses of one batch, by name, unweighted; only those that the stage has.

    Args:
        model: On the device of the tensors.
        stage: Says which losses there are.
        pixels: [B, 3, S, S].
        values: [B, 2 birds, slots].
        tokens: The tokens of the step's texts, [texts, context].
        captions: Whose texts are among those; None if the stage has no caption loss.
        local: Whether this step sees local attention only.
    """
    # On a CPU the plain attention kernel is twice as fast as the fused one for these short rows.
    with torch.autocast(pixels.device.type, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        seen = look(model, pixels, borrowed=stage.borrowed, local=local)
        embeddings = encode_texts(model, tokens).float()
    scale = logit_scale(model)
    similarities = scale * seen.embeddings @ embeddings.T
    parts = {"traits": losses.trait_loss(similarities[:, :_TRAITS], values, hard=stage.hard)}
    if captions:
        true = captions.true.to(pixels.device)
        parts["captions"] = caption_loss(similarities[:, _TRAITS:-1], true)
    if captions and stage.evidence:  # a stage with evidence has captions
        traits = embeddings[:_TRAITS]
        parts["peaks"] = losses.peak_loss(EVIDENCE_SCALE * scale * seen.evidence(traits), values)
        before, after = traits[captions.swaps]
        own, changed = embeddings[_TRAITS:-1].view(2, len(values), -1)
        directions = torch.stack([own - GAMMA * changed, before - GAMMA * after])
        whole, part = (EVIDENCE_SCALE * scale * seen.evidence(directions)).unbind(1)
        parts["agreement"] = losses.agreement_loss(whole, part)
    if stage.generic:
        parts["generic"] = losses.generic_loss(similarities, values)
    return parts


def weighted(parts: dict[str, Tensor], stage: Stage) -> Tensor:
    """The sum of the losses of a batch, with the weights of its stage."""
    loss = parts["traits"]
    if "captions" in parts:
        loss = loss + stage.captions * parts["captions"]
    if "peaks" in parts:
        loss = loss + stage.evidence * (parts["peaks"] + parts["agreement"])
    if "generic" in parts:
        loss = loss + stage.generic * parts["generic"]
    return loss


@torch.no_grad()
def held_out(model: open_clip.CLIP, tokenizer: Any, mean: list[float], std: list[float]) -> tuple[Tensor, Tensor]:
    """Held-out birds as the model sees them.

    Returns:
        The cosine of each bird with each trait by itself, [birds, traits], and the birds' values, [birds, slots].
    """
    seeds, size = range(HELD_OUT_LOG_SEED, HELD_OUT_LOG_SEED + HELD_OUT_BIRDS), model.visual.image_size[0]
    data = Pictures(size, seeds, mean, std, seen=False)
    pixels, values = (torch.stack(column) for column in zip(*(data[i] for i in range(len(data))), strict=True))
    device = next(model.parameters()).device
    model.eval()
    images = torch.cat([model.encode_image(chunk.to(device)) for chunk in torch.split(pixels, 64)]).cpu()
    texts = encode_texts(model, tokenizer([world.describe((trait,)) for trait in world.TRAITS]).to(device)).cpu()
    model.train()
    return F.normalize(images, dim=-1) @ texts.T, values[:, 0]


def trait_accuracy(cosines: Tensor, values: Tensor) -> str:
    """Zero-shot accuracy in each slot, from what `held_out` returns, as one line for the log."""
    slots = enumerate(losses.by_slot(cosines))
    right = [(own.argmax(1) == values[:, column]).float().mean() for column, own in slots]
    return ", ".join(f"{slot} {float(share):.2f}" for slot, share in zip(world.SLOTS, right, strict=True))


def present_above(cosines: Tensor, values: Tensor) -> float:
    """The cosine that 99 % of the true traits reach, from what `held_out` returns."""
    slots = enumerate(losses.by_slot(cosines))
    true = torch.cat([own.gather(1, values[:, column : column + 1]) for column, own in slots])
    return float(true.quantile(0.01))


def _stages_left(recipe: Recipe, step: int) -> Iterator[tuple[Stage, int]]:
    """The stages that are not over at `step`, each with the step at which it ends."""
    stop = 0
    for stage in recipe.stages:
        stop += stage.steps
        if step < stop:
            yield stage, stop


def _learning_rate(stage: Stage, left: int) -> float:
    """The rate with `left` steps to go, without the warmup."""
    first, last = stage.rates
    return last + (first - last) * left / stage.steps


def main(arguments: list[str] | None = None) -> int:
    """The command line of this module."""
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
