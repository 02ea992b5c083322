"""The commands that explain: `demo` and `explain`, of one image or as a table of traits."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finercam_clip import progress
from finercam_clip.cli.arguments import (
    AddCommand,
    add_labels_argument,
    add_model_arguments,
    add_question_arguments,
    given_options,
    inputs_of,
    load_named,
    path,
    report_left_out,
)
from finercam_clip.errors import InputError
from finercam_clip.paths import from_text, resolved, stored, text_of
from finercam_clip.presets import preset

if TYPE_CHECKING:
    from finercam_clip.explanation import Explanation

_LISTED = 10  # texts in the summary of `explain`


def add_commands(add_command: AddCommand) -> None:
    """Adds the commands of this module."""
    _add_demo(add_command)
    _add_explain(add_command)


def _add_demo(add_command: AddCommand) -> None:
    command = add_command(
        "demo",
        "the bundled model on its bundled image: writes finercam-demo.png",
        _demo,
        "finercam-clip demo --output demo.png",
    )
    command.add_argument(
        "--output", type=path, default=Path("finercam-demo.png"), help="picture to write (%(default)s)"
    )


def _demo(arguments: argparse.Namespace) -> None:
    with progress.waiting("loading the bundled model"):
        from finercam_clip.aviary.demo import demo

        lines = demo(arguments.output)
    print("\n".join(lines))


def _add_explain(add_command: AddCommand) -> None:
    command = add_command(
        "explain",
        "one image: its scores and a heatmap; or a folder: its table of traits",
        _explain,
        'finercam-clip explain bird.jpg --target "a bird with a red crown" --contrast "a bird with a blue crown"',
        "finercam-clip explain photos/ --concepts birds-traits --model ViT-B-16 --pretrained openai",
    )
    command.add_argument("image", type=path, help="an image file; with --concepts a folder or a list of images")
    command.add_argument(
        "--target", action="append", help="what to look for; repeat for several texts that say the same"
    )
    command.add_argument(
        "--concepts", help="instead of a target: a table of traits, a name in prompts/ or a file (.yaml, .txt)"
    )
    command.add_argument(
        "--contrast", action="append", default=[], help="what it is told apart from; repeat for several"
    )
    command.add_argument("--nearest", type=int, metavar="N", help="N contrasts: the most similar of --vocabulary")
    command.add_argument("--preset", help="the paper's modes: baseline, finer-default (3 nearest), finer-compare (1)")
    add_question_arguments(command)
    command.add_argument(
        "--output",
        type=path,
        help="picture to write (IMAGE-finercam.png; with --json none); --concepts writes a .csv beside it",
    )
    add_labels_argument(command)
    command.add_argument("--json", action="store_true", help="print everything as JSON instead of a summary")
    add_model_arguments(command)


def _explain(arguments: argparse.Namespace) -> int | None:
    if arguments.concepts is not None:
        return _explain_traits(arguments)
    if arguments.labels is not None:
        raise InputError("--labels go with --concepts: one image is asked about the classifier's own classes")
    from finercam_clip.images import read_image

    if arguments.target is None:
        raise InputError("give a --target, or --concepts for a table of traits (see finercam-clip explain --help)")
    output = _output_of(arguments)
    if sum((arguments.nearest is not None, bool(arguments.contrast), arguments.preset is not None)) > 1:
        raise InputError("give --contrast, --nearest or --preset, not both")
    image = read_image(arguments.image)
    contrasts, options = _contrasts_and_options(arguments)
    explanation = load_named(arguments).explain(image, arguments.target, contrasts, **options)
    if output is not None:
        explanation.save(output)
    if arguments.json:
        print(explanation.to_json())
    else:
        _print_summary(explanation)
        print(f"picture   {output}")
    return None


def _output_of(arguments: argparse.Namespace) -> Path | None:
    """The picture to write, checked before any work is done, or None."""
    from finercam_clip.files import check_no_input
    from finercam_clip.render import check_output

    output: Path | None = arguments.output
    if output is None and not arguments.json:
        output = _named_after(arguments.image, "-finercam.png")
    if output is not None:
        check_no_input(check_output(output), inputs_of(arguments))
    return output


def _named_after(source: Path, ending: str) -> Path:
    """A file in the working folder that is named after an input, shortened where no file can be called so."""
    name = text_of(source.stem)
    return Path(from_text(stored([name], ending)[name]))


def _contrasts_and_options(arguments: argparse.Namespace) -> tuple[list[str] | int, dict[str, Any]]:
    contrasts = arguments.contrast if arguments.nearest is None else arguments.nearest
    options = given_options(arguments)
    if arguments.preset is not None:
        options |= preset(arguments.preset)
        contrasts = options.pop("contrasts")
    return contrasts, options


def _print_summary(explanation: Explanation) -> None:
    for text, similarity in list(explanation.similarities.items())[:_LISTED]:
        role = "target  " if text == explanation.target else "contrast"
        print(f"{role}  {explanation.score} {similarity:6.3f}  p {explanation.probabilities[text]:.3f}  {text}")
    if len(explanation.contrasts) >= _LISTED:
        print(f"          and {len(explanation.contrasts) - _LISTED + 1} contrasts more (--json lists all)")
    print(f"peak      {explanation.peak or 'none'}")
    if explanation.significance is not None:
        print(f"chance    {explanation.significance.summary}")
        print(f"stand out {', '.join(str(box[:4]) for box in explanation.significant_boxes()) or 'no region'}")
    if explanation.caution:
        print(f"caution   {explanation.caution}")


def _explain_traits(arguments: argparse.Namespace) -> int:
    from finercam_clip import traits
    from finercam_clip.datasets import open_dataset
    from finercam_clip.files import check_no_input, write_together
    from finercam_clip.render import encoded

    if any((arguments.target, arguments.contrast, arguments.nearest, arguments.preset, arguments.json)):
        raise InputError("--concepts brings its own targets and contrasts: leave the others and --json out")
    picture, csv = _trait_outputs(arguments)
    questions = traits.read_traits(arguments.concepts)
    dataset, options = open_dataset(arguments.image), given_options(arguments)
    for output in (picture, csv):
        check_no_input(output, (item.path for item in dataset.items))
    table = traits.trait_table(load_named(arguments), dataset, questions, labels=arguments.labels, **options)
    if not table.rows:
        why = next(iter(table.unreadable.values()), "")
        raise InputError(f"none of the {len(dataset.items)} images in {arguments.image} can be read: {why}")
    data = {csv: traits.to_csv(table).encode(), picture: encoded(picture, traits.picture(table))}
    write_together(data)
    print(f"table     {csv}: {len(table.rows)} images, {len(questions)} traits")
    print(f"picture   {picture}")
    return report_left_out("unreadable", table.unreadable)


def _trait_outputs(arguments: argparse.Namespace) -> tuple[Path, Path]:
    """The picture and the table to write beside each other. --output may name either of them."""
    from finercam_clip.files import check_no_input, check_writable
    from finercam_clip.render import check_output

    picture: Path = arguments.output or _named_after(resolved(arguments.image), "-traits.png")
    if picture.suffix.lower() == ".csv":
        picture = picture.with_suffix(".png")
    check_output(picture)
    csv = picture.with_suffix(".csv")
    check_writable(csv)
    for output in (picture, csv):
        check_no_input(output, inputs_of(arguments))
    return picture, csv
