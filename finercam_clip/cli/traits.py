"""The command `traits`: a table of traits of a whole data set, as a run."""

from __future__ import annotations

import argparse

from finercam_clip.cli.arguments import (
    AddCommand,
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
    share_of,
    sharing,
)


def add_commands(add_command: AddCommand) -> None:
    """Adds the commands of this module."""
    command = add_command(
        "traits",
        "tables of traits of a whole data set, resumable and shared",
        _traits,
        "finercam-clip traits photos/ --concepts birds-traits --output run",
        "finercam-clip traits photos/ --concepts birds-traits --output run --labels few.csv",
    )
    command.add_argument("dataset", type=location, help="a folder, a list file, a CSV of questions, tars")
    command.add_argument("--concepts", required=True, help="the traits: a name in prompts/ or a file (.yaml, .txt)")
    command.add_argument("--output", type=location, required=True, help="the run's folder, or s3://bucket/run")
    command.add_argument("--split", help="only this part of the data set: train, test, ...")
    command.add_argument(
        "--labels", type=path, help="your own labels, a CSV file image,TRAIT,...: then traits are present or absent"
    )
    command.add_argument("--tables", type=path, help="the folder of the tables (the run's own)")
    add_sharing_arguments(command)
    add_question_arguments(command)
    add_model_arguments(command)


def _traits(arguments: argparse.Namespace) -> int:
    from finercam_clip.datasets import open_dataset
    from finercam_clip.runs.cluster import on_ray
    from finercam_clip.runs.errand import Errand
    from finercam_clip.runs.trait_runs import trait_run
    from finercam_clip.traits import read_traits

    check_counts(arguments, "batch", "shard_size", "threads", "workers")
    share, traits = share_of(arguments), read_traits(arguments.concepts)
    dataset = open_dataset(arguments.dataset)
    part, settings = dataset.split(arguments.split), {**sharing(arguments), **given_options(arguments)}
    if arguments.ray is not None:
        recipe = recipe_of(arguments, dataset.classes)
        errand = Errand(recipe, arguments.dataset, arguments.split, arguments.output, settings, traits)
        summary = on_ray(errand, arguments.ray, arguments.workers, arguments.gpus)
    else:
        explainer = load_named(arguments, dataset.classes)
        summary = trait_run(explainer, part, traits, arguments.output, share=share, **settings)
    code = report(arguments, summary, share)
    _write(arguments)
    return code


def _write(arguments: argparse.Namespace) -> None:
    """Writes the tables, if all shards are there by now. Else another process will."""
    from finercam_clip.runs.trait_tables import is_finished, write_tables

    if not is_finished(arguments.output):
        print("tables    not yet: some shards are missing; the last process writes them")
        return
    tables = write_tables(arguments.output, arguments.tables, arguments.labels)
    print(f"tables    {tables.folder}: traits.csv, traits.parquet, measurements.csv, {tables.images} images")
    for name, threshold in tables.thresholds.items():
        print(f"trait     {name}: {threshold or 'too few labels: 5 images with it and 5 without'}")
