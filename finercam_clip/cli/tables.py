"""The commands that print tables: `methods`, `models`, `bench`. And `ui`, which opens the page."""

from __future__ import annotations

import argparse
import json
from typing import Any

from finercam_clip import tables
from finercam_clip.cli.arguments import AddCommand, add_model_arguments, load_named
from finercam_clip.errors import InputError


def add_commands(add_command: AddCommand) -> None:
    """Adds the commands of this module."""
    _add_methods(add_command)
    _add_models(add_command)
    _add_bench(add_command)
    _add_ui(add_command)


def _add_methods(add_command: AddCommand) -> None:
    add_command(
        "methods",
        "how maps can be made: sources, which towers, in Markdown",
        _methods,
        "finercam-clip methods",
    )


def _methods(arguments: argparse.Namespace) -> None:
    print(methods_table())


def methods_table() -> str:
    """The table of methods in Markdown."""
    from finercam_clip.methods import METHODS

    rows = [(f"`{name}`", m.source, m.towers, "yes" if m.linear else "") for name, m in METHODS.items()]
    return tables.markdown(("method", "source", "towers", "linear in the direction"), rows)


def _add_models(add_command: AddCommand) -> None:
    command = add_command(
        "models",
        "what can be loaded: family, pretrained tags",
        _models,
        "finercam-clip models | grep SigLIP2",
    )
    command.add_argument("--families", action="store_true", help="the table of families instead, in Markdown")
    command.add_argument("--json", action="store_true", help="print as JSON")


def _models(arguments: argparse.Namespace) -> None:
    from finercam_clip.models.catalogue import families_table, list_models

    if arguments.families:
        print(families_table())
        return
    rows = list_models()
    if arguments.json:
        print(json.dumps([vars(row) for row in rows]))
        return
    width = max(len(row.name) for row in rows)
    print(f"{'MODEL':{width}}  {'FAMILY':12}  WEIGHTS")
    for row in rows:
        print(f"{row.name:{width}}  {row.family or 'not yet':12}  {', '.join(row.weights) or 'random only'}")
    print("\nand hf-hub:org/repo for any open_clip model on the hub, or a local checkpoint file as --pretrained;")
    print("in place of --model a --classifier: 'photos', or any vision transformer or convolutional network of timm")


def _add_bench(add_command: AddCommand) -> None:
    command = add_command(
        "bench",
        "time and memory of 1, 32 and 1,000 questions beside a bare forward pass",
        _bench,
        "finercam-clip bench --model ViT-B-16 --pretrained random --batch 16",
        "finercam-clip bench --methods all",
    )
    command.add_argument("--runs", type=int, default=7, help="rounds to take the median of (%(default)s)")
    command.add_argument("--batch", type=int, default=1, help="images at a time (%(default)s)")
    command.add_argument(
        "--methods", action="append", metavar="METHOD", help="time methods instead: repeat for several, or 'all'"
    )
    command.add_argument("--json", action="store_true", help="print as JSON")
    add_model_arguments(command)


def _bench(arguments: argparse.Namespace) -> None:
    from finercam_clip.bench import bench, bench_methods, format_table

    if arguments.runs < 1:
        raise InputError(f"--runs is a number from 1 up, not {arguments.runs}")
    if arguments.batch < 1 or (arguments.methods and arguments.batch > 1):
        raise InputError(f"--batch is a number from 1 up, and 1 with --methods, not {arguments.batch}")
    explainer = load_named(arguments)
    if arguments.methods:
        methods = () if "all" in arguments.methods else arguments.methods
        rows = bench_methods(explainer, methods, runs=arguments.runs)
    else:
        rows = bench(explainer, runs=arguments.runs, batch=arguments.batch)
    if arguments.json:
        print(json.dumps([_without_nan(vars(row)) for row in rows]))
    else:
        print(format_table(rows))


def _without_nan(row: dict[str, Any]) -> dict[str, Any]:
    """The row with None for NaN, which JSON does not have."""
    return {name: None if value != value else value for name, value in row.items()}


def _add_ui(add_command: AddCommand) -> None:
    command = add_command(
        "ui",
        "a page in the browser: drop an image, ask, see",
        _ui,
        "finercam-clip ui",
        "finercam-clip ui --model ViT-B-16 --pretrained openai --port 8000",
    )
    command.add_argument(
        "--host", default="127.0.0.1", help="the address to listen on (%(default)s: this machine only)"
    )
    command.add_argument("--port", type=int, help="the port of the page (the first free one from 7860)")
    add_model_arguments(command)


def _ui(arguments: argparse.Namespace) -> None:
    from finercam_clip.ui.models import first_model
    from finercam_clip.ui.serve import check_installed, check_place, serve

    check_installed()
    check_place(arguments.host, arguments.port)
    if any((arguments.model, arguments.pretrained, arguments.classifier, arguments.head, arguments.classes)):
        explainer = load_named(arguments)
    else:
        explainer = first_model(device=arguments.device, precision=arguments.precision)
    serve(explainer, arguments.host, arguments.port)
