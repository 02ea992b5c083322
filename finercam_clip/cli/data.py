"""The commands for data sets and runs: `generate`, `visualize`, `export`, `convert` and `dataset`."""

from __future__ import annotations

import argparse

from finercam_clip.cli.arguments import (
    AddCommand,
    add_labels_argument,
    add_model_arguments,
    add_question_arguments,
    add_sharing_arguments,
    check_counts,
    given_options,
    load_named,
    location,
    path,
    recipe_of,
    report,
    report_left_out,
    share_of,
    sharing,
)
from finercam_clip.errors import InputError


def add_commands(add_command: AddCommand) -> None:
    """Adds the commands of this module."""
    _add_generate(add_command)
    _add_visualize(add_command)
    _add_export(add_command)
    _add_convert(add_command)
    _add_dataset(add_command)


def _add_generate(add_command: AddCommand) -> None:
    command = add_command(
        "generate",
        "maps of a whole data set; it can be stopped and continued",
        _generate,
        "finercam-clip generate stanford_cars/test --head classifier_cars_DINO.pth --output run",
        "finercam-clip generate imagenet/val --classifier photos --output run",
    )
    command.add_argument(
        "dataset",
        nargs="?",
        type=location,
        help="a folder, a list file, a CSV of questions, tars, or s3://bucket/folder",
    )
    command.add_argument("--dataset_path", type=location, help="the same")
    command.add_argument(
        "--output", "--save_path", type=location, required=True, help="the run's folder, or s3://bucket/run"
    )
    command.add_argument("--split", help="only this part of the data set: train, test, ...")
    command.add_argument("--target", help="one concept for all images, instead of each one's class")
    command.add_argument("--contrast", action="append", help="what it is told apart from; repeat for several")
    add_sharing_arguments(command)
    add_labels_argument(command)
    add_question_arguments(command)
    add_model_arguments(command)


def _generate(arguments: argparse.Namespace) -> int:
    from finercam_clip.datasets import open_dataset
    from finercam_clip.runs import generate
    from finercam_clip.runs.cluster import on_ray
    from finercam_clip.runs.errand import Errand

    source = arguments.dataset or arguments.dataset_path
    if source is None:
        raise InputError("which data set? name a folder, a list file or a CSV of questions")
    check_counts(arguments, "batch", "shard_size", "threads", "workers")
    share = share_of(arguments)
    if arguments.contrast and not arguments.target:
        raise InputError("--contrast goes with --target; without them each image is asked about its own class")
    if arguments.labels is not None and arguments.target:
        raise InputError("--labels are for the data set's own classes: leave them out, or --target")
    dataset = open_dataset(source)
    part, options = dataset.split(arguments.split), given_options(arguments)
    settings = {
        "target": arguments.target,
        "contrasts": arguments.contrast,
        "labels": arguments.labels,
        **sharing(arguments),
        **options,
    }
    if arguments.ray is not None:
        errand = Errand(recipe_of(arguments, dataset.classes), source, arguments.split, arguments.output, settings)
        return report(arguments, on_ray(errand, arguments.ray, arguments.workers, arguments.gpus), share)
    explainer = load_named(arguments, dataset.classes)
    return report(arguments, generate(explainer, part, arguments.output, share=share, **settings), share)


def _add_visualize(add_command: AddCommand) -> None:
    command = add_command(
        "visualize",
        "pictures of a run: panels, contact sheets, a page that filters",
        _visualize,
        "finercam-clip visualize run",
    )
    command.add_argument("folder", nargs="?", type=location, metavar="run", help="the folder that generate wrote")
    command.add_argument("--cams_path", type=path, help="the same")
    command.add_argument("--output", "--save_path", type=path, help="where to (RUN/pictures)")
    command.add_argument("--dataset", "--dataset_path", type=path, help="where the images lie now, if they were moved")
    command.add_argument("--limit", type=int, help="only the first so many images")


def _visualize(arguments: argparse.Namespace) -> int:
    from finercam_clip.runs.gallery import visualize

    run = arguments.folder or arguments.cams_path
    if run is None:
        raise InputError("which run? name the folder that finercam-clip generate wrote")
    check_counts(arguments, "limit")
    pictures = visualize(run, arguments.output, dataset=arguments.dataset, limit=arguments.limit)
    print(f"panels    {pictures.panels} in {pictures.page.parent / 'panels'}")
    for sheet in pictures.sheets:
        print(f"sheet     {sheet}")
    print(f"page      {pictures.page}")
    return report_left_out("skipped", pictures.skipped)


def _add_export(add_command: AddCommand) -> None:
    command = add_command(
        "export",
        "a run for other tools: COCO, QuPath, FiftyOne, masks, CSV",
        _export,
        "finercam-clip export run --to coco",
        "finercam-clip export run --to geojson --threshold 0.7 --output qupath",
        "finercam-clip export run --to masks --threshold significance",
    )
    command.add_argument("folder", type=location, metavar="run", help="the folder that generate wrote")
    command.add_argument("--to", required=True, help="coco, geojson (QuPath), masks (PNG), fiftyone or csv")
    command.add_argument("--output", type=path, help="the folder to write to (RUN/exports/FORMAT)")
    command.add_argument("--mode", help="baseline, finer-default or finer-compare (finer-default)")
    command.add_argument(
        "--threshold",
        type=_threshold,
        default=0.5,
        help="from where on a pixel is hot (%(default)s); or 'significance': what is more than chance, in a run with "
        "--null",
    )


def _threshold(text: str) -> float | str:
    """A number, or a word for `export` to judge."""
    try:
        return float(text)
    except ValueError:
        return text


def _export(arguments: argparse.Namespace) -> None:
    from finercam_clip.exports import export

    done = export(arguments.folder, arguments.to, arguments.output, mode=arguments.mode, threshold=arguments.threshold)
    print(f"export    {done.folder}: {done.images} images")


def _add_convert(add_command: AddCommand) -> None:
    command = add_command(
        "convert",
        "a run of an earlier version, a file per image, into one of parts",
        _convert,
        "finercam-clip convert run",
    )
    command.add_argument("folder", type=path, metavar="run", help="the folder that generate wrote")


def _convert(arguments: argparse.Namespace) -> None:
    from finercam_clip.runs.convert import convert

    done = convert(arguments.folder)
    print(f"run       {arguments.folder}: {done.images} images in {done.parts} parts")


def _add_dataset(add_command: AddCommand) -> None:
    command = add_command(
        "dataset",
        "what is in a data set, what is missing, what cannot be read, what a model cannot be asked about",
        _dataset,
        "finercam-clip dataset check CUB_200_2011",
        "finercam-clip dataset check imagenet/val --classifier photos",
    )
    command.add_argument("what", choices=["check"])
    command.add_argument("dataset", type=path, help="a folder, a list file, or a CSV of questions")
    add_labels_argument(command)
    add_model_arguments(command)


def _dataset(arguments: argparse.Namespace) -> int:
    from finercam_clip.datasets import check, open_dataset

    model = (arguments.model, arguments.pretrained, arguments.classifier, arguments.head, arguments.classes)
    named = any(part is not None for part in model)
    if arguments.labels is not None and not named:
        raise InputError("--labels map a data set's classes to a model's: name it, as in --classifier photos")
    dataset = open_dataset(arguments.dataset)
    report = check(dataset, load_named(arguments, dataset.classes) if named else None, arguments.labels)
    print("\n".join(report.lines()))
    return 0 if report.complete else 1
