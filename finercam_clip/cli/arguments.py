"""What several commands share: the arguments of a question and of a model, and what is made of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Protocol

from finercam_clip import progress
from finercam_clip.cli.terminal import complain
from finercam_clip.errors import InputError
from finercam_clip.options import Options
from finercam_clip.paths import place

if TYPE_CHECKING:
    from finercam_clip.explainer import Explainer

Run = Callable[[argparse.Namespace], int | None]  # a command: parsed arguments -> exit code, None for 0


class AddCommand(Protocol):
    """Adds one command to the parser and returns the command's own parser."""

    def __call__(self, name: str, help: str, run: Run, *examples: str) -> argparse.ArgumentParser: ...


def add_question_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the fields of `Options`. What `given_options` reads stands here."""
    parser.add_argument(
        "--vocabulary", help="take contrasts from it: a name in prompts/, a text file or a folder by class"
    )
    parser.add_argument("--similar-by", help="how they are chosen: by 'logits' on the image, or as 'concepts'")
    parser.add_argument("--templates", help="ways to write a concept: a name in prompts/ or a text file")
    parser.add_argument("--background", help="further contrasts, of scenery: a name in prompts/ or a text file")
    parser.add_argument(
        "--method", default=Options.method, help="how the map is made (%(default)s; finercam-clip methods lists all)"
    )
    parser.add_argument("--refine", help="what follows the method: 'affinity', as in CLIP-ES")
    parser.add_argument(
        "--layer", type=layer, action="append", help="target layer: an index (-1 is the last) or a name; repeatable"
    )
    parser.add_argument("--objective", help=f"what is explained ({Options.objective})")
    parser.add_argument("--gamma", type=float, default=Options.gamma, help="comparison strength (%(default)s)")
    parser.add_argument("--pooling", help=f"'model', 'token', or 'mean' as in CLIP-ES ({Options.pooling})")
    parser.add_argument(
        "--image-size", type=image_size, help="size of the model's input: 448, 448x672 (height x width) or 'native'"
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what `load_named` reads."""
    parser.add_argument("--model", help="an open_clip architecture or hf-hub:org/repo (default: the bundled model)")
    parser.add_argument("--pretrained", help="its tag, a checkpoint file, or 'random'")
    parser.add_argument("--device", help="cuda, cpu, mps (default: CUDA if there is one)")
    parser.add_argument("--precision", default="fp32", help="fp32, fp16, bf16 (%(default)s)")
    parser.add_argument("--classifier", help="instead of a CLIP: 'photos', or a model of timm")
    parser.add_argument(
        "--head",
        "--classifier_path",
        type=path,
        help="its linear head, a file; without --classifier on what it was fitted on, else on the paper's DINOv2",
    )
    parser.add_argument("--classes", help="the head's class names: a text file, or a folder of folders")


def add_labels_argument(parser: argparse.ArgumentParser, rule: str = "") -> None:
    """Adds the label map of a data set, with what else holds for it."""
    parser.add_argument(
        "--labels",
        type=path,
        help="a CSV file: the data set's class, the classifier's class (by name, WordNet id or index)" + rule,
    )


def path(text: str) -> Path:
    """A path from the command line, for argparse."""
    try:
        return place(text, "it")
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def image_size(text: str) -> int | tuple[int, int] | str:
    """--image-size as `Options.image_size` has it."""
    if text == "native":
        return text
    sides = [int(side) for side in text.split("x")]
    if len(sides) > 2:
        raise argparse.ArgumentTypeError(f"{text} has {len(sides)} sides: give one, or height x width")
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def layer(text: str) -> int | str:
    """--layer as `Options.layer` has it."""
    return int(text) if text.lstrip("-").isdigit() else text


def given_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that the arguments give, by their names in `Options`.

    Raises:
        InputError: The value of an option cannot be used.
    """
    from finercam_clip.resolve import resolve_options

    options = {field.name: getattr(arguments, field.name) for field in fields(Options)}
    if arguments.layer is not None:
        options["layer"] = tuple(arguments.layer)
    options = {name: value for name, value in options.items() if value is not None}
    resolve_options(options)
    return options


def load_named(arguments: argparse.Namespace, classes: Sequence[str] = ()) -> Explainer:
    """Loads the model that the arguments name.

    Args:
        arguments: With what `add_model_arguments` adds.
        classes: The classes of the data set. They name the rows of a --head that comes without names and without
            --classes.

    Raises:
        InputError: The arguments contradict each other, or the model cannot be loaded.
    """
    if arguments.classifier is not None or arguments.head is not None:
        if arguments.model is not None:
            raise InputError("give --model (a CLIP) or --classifier and --head, not both")
        from finercam_clip.models import load_classifier
        from finercam_clip.models.heads import read_notes

        notes = None if arguments.head is None else read_notes(arguments.head)
        nameless = arguments.head is not None and classes and notes is None
        with progress.waiting(f"loading {arguments.classifier or ('DINOv2' if notes is None else notes.backbone)}"):
            return load_classifier(
                arguments.classifier,
                arguments.head,
                arguments.classes or (classes if nameless else None),
                pretrained=arguments.pretrained,
                device=arguments.device,
                precision=arguments.precision,
            )
    if arguments.classes is not None:
        raise InputError("--classes are of a --classifier or a --head; for CLIP there is --vocabulary")
    from finercam_clip.models import load

    with progress.waiting(f"loading {arguments.model or 'the bundled model'}"):
        return load(arguments.model, arguments.pretrained, device=arguments.device, precision=arguments.precision)


def inputs_of(arguments: argparse.Namespace) -> list[Path]:
    """The files and folders that the arguments name, none of which may be written over. Names of other things count."""
    names = ["image", "dataset", "concepts", "labels", "vocabulary", "templates", "background"]
    names += ["pretrained", "head", "classes"]
    values = [getattr(arguments, name, None) for name in names]
    return [Path(value) for value in values if value and "\0" not in str(value)]


def report_left_out(what: str, reasons: dict[str, str]) -> int:
    """Prints one line on stderr for each thing that was left out.

    Args:
        what: What happened to them, such as "unreadable".
        reasons: The name of each, with why it was left out.

    Returns:
        The exit code: 1 if anything was left out, else 0.
    """
    for name, reason in reasons.items():
        complain(f"finercam-clip: {what}: {reason if PurePath(name).name in reason else f'{name}: {reason}'}")
    return 1 if reasons else 0
