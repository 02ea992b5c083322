"""Trains the bundled model on photographs of birds: `python -m finercam_clip.birds.train --data CUB --output weights`.

A small CLIP learns from CUB-200-2011 (Wah et al., 2011): photographs, one click per visible part, and what annotators
say of each species. Its image tower is the first blocks of EfficientNet-Lite0 as ImageNet has made them, which stay so,
and three convolutions on top, which learn. The text tower is open_clip's, from scratch. In every step it sees a batch
of views, and these losses are added up (`losses` has their formulas):

* *values*: at each part, the species' own colour, pattern or shape must win. *averages*: so it must in the averaged
  embedding.
* *silence*: at each part nothing else may speak: no false value, and no other part's trait.
* *background*: cells far from the bird add nothing to the embedding. *opposition*: no cell speaks against a trait.
* *places*: the map of a true trait must be high where its part is; so must its map against a false value, which is what
  the default objective shows; so must the map of a caption against the same with one trait changed.
* *captions*: InfoNCE between pictures and captions of one to four traits, or a species' name. The same caption with one
  trait changed is a hard negative.
* *generic*: a generic text lies between the traits that are true of a picture and those that are not.
* *apart* and *composition*: each trait has a direction of its own, and a caption has the sum of its traits'.

So training is told where parts are. The aviary's model is not; it stays the benchmark in which where is never told.

The run writes a checkpoint every few minutes and goes on from it. Batch n is a function of n, and the checkpoint holds
all other state.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from finercam_clip import training
from finercam_clip.birds import losses, words
from finercam_clip.birds.pictures import Photographs, read_photographs
from finercam_clip.birds.samples import KeptViews, Texts, draw_texts, true_of
from finercam_clip.birds.words import TRAITS
from finercam_clip.datasets import open_dataset
from finercam_clip.errors import InputError
from finercam_clip.models import trunk
from finercam_clip.models.catalogue import BIRDS, BUNDLED_MODELS
from finercam_clip.models.classifier import photos_network

CONFIG = BUNDLED_MODELS[BIRDS] / "open_clip_config.json"
_TRAITS = [words.describe((trait,)) for trait in TRAITS]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, apart from the photographs and the architecture.

    Attributes:
        steps: How many batches.
        batch: Views per step.
        views: Of each photograph.
        rate: The highest learning rate; it falls as a cosine does.
        warmup: Steps in which it rises from 0.
        weight_decay: AdamW's, for matrices.
        held_out: How many species training does not see.
        checkpoint_every: Steps from one checkpoint to the next.
        weights: Of the losses, by name.
    """

    steps: int = 1000
    batch: int = 40
    views: int = 4
    rate: float = 1.5e-3
    warmup: int = 60
    weight_decay: float = 0.05
    held_out: int = 13
    checkpoint_every: int = 100
    weights: tuple[tuple[str, float], ...] = (
        ("values", 1.0),
        ("silence", 2.0),
        ("background", 0.02),
        ("opposition", 2.0),
        ("places", 1.0),
        ("contrasts", 1.5),
        ("caption places", 1.5),
        ("averages", 1.0),
        ("captions", 1.0),
        ("generic", 0.25),
        ("apart", 20.0),
        ("composition", 1.0),
    )


def train(recipe: Recipe, data: Path, output: Path, *, seed: int) -> None:
    """Runs a recipe from its start, or from the checkpoint in `output`, and packages the weights there.

    Args:
        recipe: What to do. It must be the one that the checkpoint was made with.
        data: CUB-200-2011, or a part of it in its layout.
        output: The folder of features, checkpoint, log and weights.
        seed: Draws the first weights, the batches and the texts. Views and held-out species do not depend on it.

    Raises:
        InputError: The data set cannot be used, or has too few species.
    """
    photographs = read_photographs(open_dataset(data))
    held = held_out_species(photographs.classes, recipe.held_out)
    seen_photographs = photographs.of(set(photographs.classes) - held)
    output.mkdir(parents=True, exist_ok=True)
    checkpoint, log = output / "training.safetensors", output / "training.log"
    torch.manual_seed(seed)
    model = build_model()
    optimizer = training.make_optimizer(model, recipe.weight_decay)
    tokenizer = open_clip.SimpleTokenizer(context_length=model.context_length)
    seen = torch.zeros(model.vocab_size, dtype=torch.bool)
    step = first = int(training.checkpoint_metadata(checkpoint).get("step", 0))
    if step:
        training.restore(checkpoint, model, optimizer, seen)
    size = model.visual.image_size[0]
    side = size // trunk.STRIDE
    views = KeptViews(
        output,
        seen_photographs,
        base_of(model),
        (trunk.FEATURES, side, side),
        views=recipe.views,
        size=size,
    )
    middles = cell_middles(side)
    averages: dict[str, float] = {}
    began = time.monotonic()
    while step < recipe.steps:
        rng = np.random.default_rng((seed, step))
        numbers, indices = (rng.integers(limit, size=recipe.batch) for limit in views.done.shape)
        features, points = views.of(numbers, indices)
        places = losses.Places.of(points, middles, trunk.STRIDE)
        species = seen_photographs.species[indices]
        texts = draw_texts(seen_photographs, species, places.visible.numpy(), rng)
        single = [words.describe((trait,), rng) for trait in TRAITS]
        tokens = [tokenizer(some) for some in (single, [*texts.captions, words.describe((), rng)])]
        for some in tokens:
            seen[some.unique()] = True
        training.set_rate(optimizer, _rate(recipe, step))
        parts = batch_losses(model, features, places, texts, tokens, seen_photographs, species)
        loss = sum((weight * parts[name] for name, weight in recipe.weights), torch.zeros(()))
        training.descend(model, optimizer, loss)
        step += 1
        means = training.follow(averages, parts, 0.05)
        if step % 50 == 0:
            rate = (step - first) * recipe.batch / (time.monotonic() - began)
            training.note(log, f"step {step}/{recipe.steps} {means} {rate:.0f} views/s")
        if step % recipe.checkpoint_every == 0 or step == recipe.steps:
            training.save_checkpoint(checkpoint, model, optimizer, seen, {"step": str(step)})
    training.package(model.eval(), seen, output, present_above(model, views, tokenizer))
    names = sorted(name.partition(".")[2] for name in set(photographs.classes) - held)
    (output / "species.txt").write_text("".join(f"{name}\n" for name in names))
    training.note(log, f"done: {output / training.WEIGHTS}")


def held_out_species(classes: tuple[str, ...], count: int) -> set[str]:
    """The species that training does not see: the same ones whatever the seed.

    Raises:
        InputError: No species would be left.
    """
    if count >= len(classes):
        raise InputError(f"{count} species are held out; the data set has {len(classes)}: training needs more")
    drawn = np.random.default_rng(19).permutation(len(classes))[:count]
    return {classes[index] for index in drawn}


def build_model() -> open_clip.CLIP:
    """The architecture with fresh weights, and with ImageNet's in the base of the image tower."""
    trunk.register()
    model = open_clip.CLIP(**json.loads(CONFIG.read_text())["model_cfg"], init_logit_scale=math.log(20.0))
    nn.init.normal_(model.visual.head.proj.weight, std=0.5 * trunk.WIDTH**-0.5)
    model.visual.trunk.take_base(photos_network())
    return model


def base_of(model: open_clip.CLIP) -> Callable[[Tensor], Tensor]:
    """The frozen base of the image tower as `KeptViews` wants it."""
    network = model.visual.trunk

    @torch.no_grad()
    def base(pixels: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            features: Tensor = network.base_features(pixels.contiguous(memory_format=torch.channels_last))
        return features.float()

    return base


def cell_middles(side: int) -> Tensor:
    """Where the cells of a grid of `side` x `side` lie, (x, y) in pixels, [N, 2].

    TensorFlow's padding shifts every strided convolution by half a pixel of its own. So a cell lies on the last pixel
    of its 16, as `receptive.convolutional_shift` says, too.
    """
    along = torch.arange(side) * float(trunk.STRIDE) + trunk.STRIDE - 1
    rows, columns = torch.meshgrid(along, along, indexing="ij")
    return torch.stack([columns.flatten(), rows.flatten()], 1)


def cells_of(model: open_clip.CLIP, features: Tensor) -> Tensor:
    """What each cell adds to the embedding, [B, N, D], from what the base sees."""
    with torch.autocast("cpu", torch.bfloat16):
        last = model.visual.trunk.final_conv(features)
    cells: Tensor = model.visual.head.proj(last.float().flatten(2).mT)
    return cells


def batch_losses(
    model: open_clip.CLIP,
    features: Tensor,
    places: losses.Places,
    texts: Texts,
    tokens: list[Tensor],
    photographs: Photographs,
    species: np.ndarray,
) -> dict[str, Tensor]:
    """The losses of one batch, by name, unweighted.

    Args:
        model: The model.
        features: What the base sees, [B, channels, h, w].
        places: Where the parts are.
        texts: What is said.
        tokens: Of all single traits, [K, context]; and of the captions and a generic text, [2B + 1, context].
        photographs: All that training sees.
        species: Of each picture, [B].
    """
    # On a CPU the plain attention kernel is faster than the fused one for these short rows.
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        traits, said = (training.encode_texts(model, some) for some in tokens)
    traits, said = F.normalize(traits.float(), dim=-1), F.normalize(said.float(), dim=-1)
    captions, generic = said[:-1], said[-1]
    values, count = torch.from_numpy(photographs.values[species]), len(species)
    cells = cells_of(model, features)
    scores = cells @ traits.T
    at_parts = places.weights @ scores
    target, contrast = (_maps_of(scores, some) for some in (texts.target, texts.contrast))
    own, other = (torch.einsum("bnd,bd->bn", cells, some) for some in (captions[:count], captions[count:]))
    about = texts.changed.clamp(min=0)
    scale = training.logit_scale(model)
    embeddings = F.normalize(cells.mean(1), dim=-1)
    return {
        "values": losses.value_loss(at_parts, values, places.visible),
        "silence": losses.silence_loss(at_parts, values, places),
        "background": losses.background_loss(cells, places),
        "opposition": losses.opposition_loss(scores),
        "places": losses.place_loss(target.flatten(0, 1), places.weights.flatten(0, 1), texts.sure.flatten()),
        "contrasts": losses.place_loss(
            losses.contrasted(target, contrast).flatten(0, 1), places.weights.flatten(0, 1), texts.sure.flatten()
        ),
        "caption places": losses.place_loss(
            2 * losses.contrasted(own, other),
            places.weights[torch.arange(count), about],
            (texts.changed >= 0).float(),
        ),
        "averages": losses.average_loss(scale * embeddings @ traits.T, values, places.visible),
        "captions": training.caption_loss(scale * embeddings @ captions.T, true_of(texts, photographs, species)),
        "generic": losses.generic_loss(
            scale * (embeddings @ traits.T - (embeddings @ generic)[:, None]), values, places.visible
        ),
        "apart": losses.apart_loss(traits),
        "composition": losses.composition_loss(captions, traits, texts.claims),
    }


def _maps_of(scores: Tensor, traits: Tensor) -> Tensor:
    """The maps of one trait per part, [B, P, N], of scores [B, N, K] and indices [B, P]."""
    return scores.gather(2, traits[:, None].expand(-1, scores.shape[1], -1)).mT


@torch.no_grad()
def present_above(model: open_clip.CLIP, views: KeptViews, tokenizer: open_clip.SimpleTokenizer) -> float:
    """The cosine that 99 % of the true traits of visible parts reach, in the first views that are kept."""
    indices = np.flatnonzero(views.done[0])[:512]
    features, points = views.of(np.zeros_like(indices), indices)
    embeddings = F.normalize(cells_of(model, features).mean(1), dim=-1)
    cosines = embeddings @ training.encode_texts(model, tokenizer(_TRAITS)).T
    visible = ~torch.isnan(points[..., 0]).all(-1)
    values = torch.from_numpy(views.photographs.values[views.photographs.species[indices]])
    true = losses.true_and_visible(values, visible)
    return float(cosines[true].quantile(0.01))


def _rate(recipe: Recipe, step: int) -> float:
    """The learning rate of a step."""
    if step < recipe.warmup:
        return recipe.rate * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(recipe.steps - recipe.warmup, 1)
    return recipe.rate * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)


def main(arguments: list[str] | None = None) -> int:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description="Train the bundled model birds (resumes where it stopped).")
    parser.add_argument("--data", type=Path, required=True, help="CUB-200-2011, or a part of it in its layout")
    parser.add_argument("--output", type=Path, default=Path("birds-weights"), help="folder for all that it writes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    options = parser.parse_args(arguments)
    try:
        train(Recipe(steps=options.steps), options.data, options.output, seed=options.seed)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
