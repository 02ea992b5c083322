"""The command `fit`: a linear head of one's own."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from finercam_clip import progress
from finercam_clip.cli.arguments import AddCommand, path, report_left_out
from finercam_clip.errors import InputError

if TYPE_CHECKING:
    from finercam_clip.explainer import Explainer


def add_commands(add_command: AddCommand) -> None:
    """Adds the commands of this module."""
    command = add_command(
        "fit",
        "a linear head for a data set by class, and its accuracy",
        _fit,
        "finercam-clip fit CUB_200_2011 --classifier photos --image-size 448 --output head.safetensors",
        "finercam-clip fit CUB_200_2011 --model ViT-B-16 --pretrained openai --output head.safetensors",
    )
    command.add_argument("dataset", type=path, help="a folder of images by class, CUB-200-2011, a list or a CSV file")
    command.add_argument("--output", type=path, required=True, help="the head's file, NAME.safetensors")
    command.add_argument("--classifier", help="the backbone: 'photos', or a model of timm")
    command.add_argument("--pooling", help="what the head reads of a transformer of timm: 'model', 'token' or 'mean'")
    command.add_argument("--model", help="instead of a classifier a CLIP, whose image tower takes the head")
    command.add_argument("--pretrained", help="the backbone's weights: a CLIP's tag, a checkpoint file, or 'random'")
    command.add_argument("--image-size", type=int, help="side of the model's input, pixels (default: its own)")
    command.add_argument("--split", help="the split to be fitted to (train)")
    command.add_argument("--test", help="the split to be measured on (test, else valid or val)")
    command.add_argument(
        "--held-out", type=float, metavar="SHARE", help="no test split: hold out this share of each class (0.2)"
    )
    command.add_argument("--seed", type=int, default=0, help="of what is held out, and of the folds (%(default)s)")
    command.add_argument("--C", type=float, help="inverse strength of regularisation (default: by cross-validation)")
    command.add_argument("--features", type=path, help="the folder of features (NAME.features beside the output)")
    command.add_argument("--batch", type=int, default=8, help="images per forward pass (%(default)s)")
    command.add_argument("--device", help="cuda, cpu, mps (default: CUDA if there is one)")
    command.add_argument("--precision", default="fp32", help="fp32, fp16, bf16 (%(default)s)")
    command.add_argument("--json", action="store_true", help="print everything as JSON instead of a summary")


def _fit(arguments: argparse.Namespace) -> int:
    from finercam_clip.datasets import open_dataset
    from finercam_clip.fitting import fit, outputs_of, planned
    from finercam_clip.fitting.regression import check_installed

    if (arguments.classifier is None) == (arguments.model is None):
        raise InputError("give one backbone: --classifier (a model of timm, or 'photos') or --model (a CLIP)")
    if arguments.model is not None and arguments.pooling is not None:
        raise InputError("--pooling is of a --classifier; a CLIP's head reads the CLIP's own embedding: leave it out")
    check_installed()
    dataset = open_dataset(arguments.dataset)
    choice = {name: getattr(arguments, name) for name in ("split", "test", "held_out", "seed")}
    planned(dataset, **choice)  # what is wrong with the data set is told before a model is loaded
    outputs_of(dataset, arguments.output, arguments.features)
    result = fit(
        _backbone(arguments),
        dataset,
        arguments.output,
        image_size=arguments.image_size,
        strength=arguments.C,
        features=arguments.features,
        batch=arguments.batch,
        **choice,
    )
    if arguments.json:
        print(json.dumps(result.plain(), ensure_ascii=False))
    else:
        share, low, high = result.accuracy
        print(f"head      {result.head}: {len(result.classes)} classes, C {result.strength:.2g}")
        print(f"images    {result.fitted:,} fitted, {result.measured:,} measured: {result.split}")
        print(f"features  {result.features}: {result.computed:,} computed now")
        print(f"accuracy  {share:.3f} (95 % interval {low:.3f} to {high:.3f}) on {result.measured:,} images")
    return report_left_out("unreadable", result.unreadable)


def _backbone(arguments: argparse.Namespace) -> Explainer:
    from finercam_clip.models import load, load_backbone

    settings = {name: getattr(arguments, name) for name in ("pretrained", "device", "precision")}
    with progress.waiting(f"loading {arguments.classifier or arguments.model}"):
        if arguments.model is not None:
            return load(arguments.model, **settings)
        return load_backbone(arguments.classifier, pooling=arguments.pooling, **settings)
