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
from finercam_clip.options import TEXTS, Options
from finercam_clip.paths import place

if TYPE_CHECKING:
    from finercam_clip.explainer import Explainer
    from finercam_clip.models.recipe import Recipe
    from finercam_clip.runs import Share, Summary

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
        "--null",
        help="is it more than chance? texts to compare with: 'everyday', 'traits', a file; 'classes', 'nearest'",
    )
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
    parser.add_argument(
        "--model",
        help="an open_clip architecture, hf-hub:org/repo, or 'birds' (default: the bundled model of drawn birds)",
    )
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


def location(text: str) -> Path | str:
    """A path, or the address of an object store, from the command line."""
    return text if "://" in text else path(text)


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
    recipe = recipe_of(arguments, classes)
    with progress.waiting(f"loading {recipe.name}"):
        return recipe.load()


def recipe_of(arguments: argparse.Namespace, classes: Sequence[str] = ()) -> Recipe:
    """How to load the model that the arguments name. See `load_named`."""
    from finercam_clip.models.recipe import Recipe

    return Recipe(
        model=arguments.model,
        pretrained=arguments.pretrained,
        classifier=arguments.classifier,
        head=arguments.head,
        classes=arguments.classes,
        device=arguments.device,
        precision=arguments.precision,
        others=tuple(classes),
    ).checked()


def add_shard_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds how a run is cut into shards. What `sharing` reads stands here."""
    parser.add_argument("--batch", type=int, default=16, help="images per forward pass (%(default)s)")
    parser.add_argument("--shard-size", type=int, default=512, help="images per shard, a file each (%(default)s)")
    parser.add_argument("--threads", type=int, help="threads that each process computes with (torch's own number)")
    parser.add_argument(
        "--shards", metavar="I/N", help="only each N-th shard from I on, 0 to N-1 (what Slurm says in srun, else 0/1)"
    )


def add_sharing_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds how a run is cut into shards, and who does which."""
    add_shard_arguments(parser)
    parser.add_argument(
        "--ray", nargs="?", const="", metavar="ADDRESS", help="on a Ray cluster (RAY_ADDRESS, or one on this machine)"
    )
    parser.add_argument("--workers", type=int, help="with --ray: processes, a model each (as many as fit)")
    parser.add_argument("--gpus", type=float, help="with --ray: GPUs per process, as 0.5 (1 where there are any)")


def sharing(arguments: argparse.Namespace) -> dict[str, Any]:
    """How a run is cut into shards."""
    return {name: getattr(arguments, name) for name in ("batch", "shard_size", "threads")}


def share_of(arguments: argparse.Namespace) -> Share:
    """What this process does of a run. Raises InputError where --shards, --ray and the like do not go together."""
    from finercam_clip.runs.shards import ALL, read_share

    if arguments.ray is None:
        if arguments.workers is not None or arguments.gpus is not None:
            raise InputError("--workers and --gpus go with --ray")
        return read_share(arguments.shards)
    if arguments.shards is not None:
        raise InputError("give --ray or --shards, not both: Ray itself gives its processes their shards")
    if arguments.gpus is not None and not 0 <= arguments.gpus <= 8:
        raise InputError(f"--gpus is how many GPUs each process has, 0 to 8, as 0.5; not {arguments.gpus:g}")
    return ALL


def check_counts(arguments: argparse.Namespace, *names: str) -> None:
    """Raises InputError for an argument that is no number from 1 up."""
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} is a number from 1 up, not {value}")


def report(arguments: argparse.Namespace, summary: Summary, share: Share) -> int:
    """Prints what a run has come to. Returns the exit code."""
    done = summary.images - sum(not name.endswith("/") for name in summary.unreadable)
    who = "" if share.count == 1 else f", process {share.index} of {share.count}"
    print(f"run       {arguments.output}{who}: {done} of {summary.images} images, {summary.computed} computed now")
    failed = report_left_out("failed", {f"shard {number}": why for number, why in summary.failed.items()})
    return max(failed, report_left_out("unreadable", summary.unreadable))


def inputs_of(arguments: argparse.Namespace) -> list[Path]:
    """The files and folders that the arguments name, none of which may be written over. Names of other things count."""
    names = ["image", "dataset", "concepts", "labels", *TEXTS, "pretrained", "head", "classes"]
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
