"""The command `evaluate`: figures of drawn birds, of birds in photographs, of sanity checks, and of any data set."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from finercam_clip.cli.arguments import (
    AddCommand,
    add_labels_argument,
    add_model_arguments,
    image_size,
    layer,
    load_named,
    report_left_out,
)
from finercam_clip.errors import InputError
from finercam_clip.options import Options

_WORLDS = ("aviary", "birds", "sanity")
_EVALUATED = ["hirescam", "gradcam"]  # methods on drawn birds, unless some are named


def add_commands(add_command: AddCommand) -> None:
    """Adds the command of this module."""
    command = add_command(
        "evaluate",
        "figures with intervals: of a data set, or of questions whose answers are known to the pixel",
        _evaluate,
        "finercam-clip evaluate CUB_200_2011 --split test --classifier BACKBONE --head birds.safetensors --output run",
        "finercam-clip evaluate photographs --classifier photos --about prediction --limit 500",
        "finercam-clip evaluate aviary --questions 100 --method hirescam --method legrad",
        "finercam-clip evaluate birds --data CUB_200_2011 --model birds",
        "finercam-clip evaluate sanity",
    )
    command.add_argument(
        "what",
        metavar="DATASET",
        help="a data set; or aviary: how often answers about drawn birds are right; or birds: the same of "
        "birds in photographs; or sanity: whether the maps depend on what they should depend on",
    )
    command.add_argument("--method", "--methods", action="append", help="repeat for several, or 'all'")
    command.add_argument(
        "--objective", action="append", help=f"repeat for several ({Options.objective}; aviary: the paper's too)"
    )
    command.add_argument(
        "--gamma",
        type=float,
        action="append",
        help=f"comparison strength ({Options.gamma}; aviary: the paper's for its objectives); a data set takes several",
    )
    command.add_argument(
        "--seed", type=int, default=0, help="draws the images, or is the first question's (%(default)s)"
    )
    command.add_argument("--json", action="store_true", help="print as JSON")
    drawn = command.add_argument_group("aviary, birds and sanity")
    drawn.add_argument("--questions", type=int, help="questions of each kind (aviary and birds: 200, sanity: 50)")
    drawn.add_argument(
        "--causal",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="aviary: draw each bird again with its traits swapped",
    )
    drawn.add_argument("--siblings", action="store_true", help="aviary: contrasts are all other values of the trait")
    drawn.add_argument("--kind", action="append", help="aviary and birds: repeat for several (default: all)")
    drawn.add_argument("--data", type=Path, help="birds: CUB-200-2011, or a part of it in its layout")
    drawn.add_argument(
        "--trained",
        action="store_true",
        help="birds: about the species that the model birds was trained on, not about others",
    )
    real = command.add_argument_group("a data set")
    real.add_argument("--split", help="only this part of the data set: train, test, ...")
    real.add_argument("--limit", type=int, help="so many images, drawn at random")
    real.add_argument("--truth", type=Path, help="COCO's JSON, a folder of masks, a CSV of points (default: beside it)")
    real.add_argument("--about", help="each image's own 'class', or the 'prediction' of the model (class)")
    add_labels_argument(
        command,
        "; a class that it does not mention keeps its name, and classes that the model does not know are left out",
    )
    real.add_argument(
        "--figures",
        action="append",
        help="drop, curves, place, difference, causes, overlap, controls, or 'all'; repeatable",
    )
    real.add_argument("--radius", type=float, default=0.1, help="of discs about parts, a share of the picture")
    real.add_argument("--output", type=Path, help="a folder for records and tables; a stopped run goes on there")
    real.add_argument("--pooling", help=f"'model', 'token' or 'mean' ({Options.pooling})")
    real.add_argument("--image-size", type=image_size, help="size of the model's input")
    real.add_argument("--layer", type=layer, action="append", help="target layer; repeatable")
    real.add_argument("--similar-by", help="how contrasts are chosen: 'logits' or 'concepts'")
    real.add_argument("--templates", help="ways to write a class: a name in prompts/ or a text file")
    add_model_arguments(command)


_OF_DATASETS = ("split", "limit", "truth", "about", "labels", "figures", "output")


def _evaluate(arguments: argparse.Namespace) -> int:
    if arguments.what not in _WORLDS:
        return _of_dataset(arguments)
    for name in _OF_DATASETS:
        if getattr(arguments, name) is not None:
            raise InputError(f"--{name} is for data sets, not for {arguments.what}")
    print(_of_world(arguments))
    return 0


def _of_world(arguments: argparse.Namespace) -> str:
    """The table, or JSON, of drawn birds, of birds in photographs, or of sanity checks."""
    from finercam_clip.aviary import benchmark, questions, sanity
    from finercam_clip.birds import benchmark as photographs
    from finercam_clip.datasets import open_dataset
    from finercam_clip.evaluation.rows import OBJECTIVES
    from finercam_clip.methods import METHODS
    from finercam_clip.models.catalogue import BIRDS
    from finercam_clip.presets import PRESETS

    of_questions = (arguments.kind, arguments.method, arguments.objective, arguments.gamma, arguments.siblings)
    if arguments.what == "sanity" and any(of_questions):
        raise InputError("--kind, --method, --objective, --gamma and --siblings are not for sanity: leave them out")
    gammas = arguments.gamma or [None]
    if len(gammas) > 1:
        raise InputError(f"{arguments.what} takes one --gamma at a time")
    rows: list[dict[str, Any]]
    settings = {"seed": arguments.seed}
    if arguments.questions is not None:
        settings["questions"] = arguments.questions
    if arguments.what == "birds" and arguments.data is None:
        raise InputError("evaluate birds asks about photographs: give CUB-200-2011 as --data")
    if arguments.what != "birds" and (arguments.data is not None or arguments.trained):
        raise InputError(f"--data and --trained are for birds, not for {arguments.what}")
    if arguments.what == "birds" and arguments.model is None and arguments.classifier is None:
        arguments.model = BIRDS
    explainer = load_named(arguments)
    if arguments.what == "birds":
        answered = photographs.evaluate(
            explainer,
            open_dataset(arguments.data),
            kinds=arguments.kind,
            methods=[*METHODS, *PRESETS] if "all" in (arguments.method or []) else arguments.method or _EVALUATED[:1],
            objectives=arguments.objective or OBJECTIVES,
            gamma=gammas[0],
            trained=arguments.trained,
            **settings,
        )
        rows, table = [vars(row) for row in answered], photographs.format_table(answered)
    elif arguments.what == "sanity":
        checks = sanity.check_sanity(explainer, **settings)
        rows = [vars(check) | {"passed": check.passed} for check in checks]
        table = sanity.format_table(checks)
    else:
        results = benchmark.evaluate(
            explainer,
            kinds=arguments.kind or list(questions.KINDS),
            methods=[*METHODS, *PRESETS] if "all" in (arguments.method or []) else arguments.method or _EVALUATED,
            objectives=arguments.objective or OBJECTIVES,
            gamma=gammas[0],
            causal=arguments.causal,
            siblings=arguments.siblings,
            **settings,
        )
        rows, table = [vars(result) for result in results], benchmark.format_table(results)
    return json.dumps(rows) if arguments.json else table


def _of_dataset(arguments: argparse.Namespace) -> int:
    from finercam_clip.datasets import find_truth, open_dataset
    from finercam_clip.evaluation.protocol import GROUPS, USUAL, Protocol
    from finercam_clip.evaluation.referee import evaluate, working_methods
    from finercam_clip.evaluation.stopwatch import Stopwatch

    for name in ("questions", "kind", "siblings", "data", "trained"):
        if getattr(arguments, name) not in (None, False):
            raise InputError(f"--{name} is for the aviary or birds: a data set takes --limit")
    groups = arguments.figures or USUAL
    protocol = Protocol(
        about=arguments.about or "class",
        groups=tuple(GROUPS) if "all" in groups else tuple(dict.fromkeys(groups)),
        radius=arguments.radius,
        seed=arguments.seed,
        limit=arguments.limit,
    )
    changes: dict[str, Any] = {
        name: getattr(arguments, name)
        for name in ("pooling", "image_size", "similar_by", "templates")
        if getattr(arguments, name) is not None
    }
    if arguments.layer is not None:
        changes["layer"] = tuple(arguments.layer)
    dataset = open_dataset(arguments.what)
    truth = find_truth(dataset, arguments.truth)
    part = dataset.split(arguments.split)
    explainer = load_named(arguments, dataset.classes)
    methods = arguments.method or [Options.method]
    watch = Stopwatch()
    result = evaluate(
        explainer,
        part,
        methods=working_methods(explainer) if "all" in methods else methods,
        objectives=arguments.objective or [Options.objective],
        gammas=arguments.gamma or [Options.gamma],
        protocol=protocol,
        truth=truth,
        labels=arguments.labels,
        output=arguments.output,
        watch=watch,
        **changes,
    )
    print(json.dumps(result.plain()) if arguments.json else result.table())
    print(watch.line(), file=sys.stderr)
    return report_left_out("unreadable", result.unreadable)
