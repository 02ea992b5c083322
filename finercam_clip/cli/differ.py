"""The command `differ`: what tells two sets of pictures apart, in words, and where."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finercam_clip.cli.arguments import (
    AddCommand,
    add_model_arguments,
    add_question_arguments,
    add_shard_arguments,
    check_counts,
    given_options,
    load_named,
    path,
    report_left_out,
    sharing,
)
from finercam_clip.errors import InputError

if TYPE_CHECKING:
    from finercam_clip.explainer import Explainer
    from finercam_clip.options import Options
    from finercam_clip.runs import Share

_PAIRS = 3  # of classes, for RUN:confused


def add_commands(add_command: AddCommand) -> None:
    """Adds the command of this module."""
    command = add_command(
        "differ",
        "what tells two sets of pictures apart, in words, and where",
        _differ,
        "finercam-clip differ males/ females/ --concepts birds-traits --output found",
        "finercam-clip differ birds:crow birds:raven --concepts colours.txt --template '{} wings' --output f",
        "finercam-clip differ run:correct run:wrong --concepts birds-traits --output why",
        "finercam-clip differ run:confused --classifier photos --output why",
    )
    sets = (
        "a folder, a list, DATASET:CLASS, RUN:correct, RUN:wrong, RUN:CLASS>CLASS (of one class, taken for the other)"
    )
    command.add_argument("a", metavar="A", help=f"a set of pictures: {sets}")
    command.add_argument(
        "b", metavar="B", nargs="?", help="the other set; without it A is RUN:confused, the class pairs confused most"
    )
    command.add_argument(
        "--concepts", help="texts: a name in prompts/ or a file (.yaml, .txt); by default a classifier's classes"
    )
    command.add_argument(
        "--template", action="append", help="put each text into this, 'a bird with {} wings'; repeat for several"
    )
    command.add_argument("--output", type=path, required=True, help="the folder for embeddings, table and page")
    command.add_argument("--split", help="only this part of the data sets: train, test, ...")
    add_shard_arguments(command)
    add_question_arguments(command)
    add_model_arguments(command)


def _differ(arguments: argparse.Namespace) -> int:
    from finercam_clip.differences import confusions
    from finercam_clip.differences.sides import CONFUSED
    from finercam_clip.resolve import resolve_options
    from finercam_clip.runs.shards import read_share

    check_counts(arguments, "batch", "shard_size", "threads")
    share, options = read_share(arguments.shards), resolve_options(given_options(arguments))
    run, _, which = arguments.a.rpartition(":")
    if arguments.b is not None:
        return _compare(arguments, load_named(arguments), (arguments.a, arguments.b), arguments.output, options, share)
    if which != CONFUSED or not run:
        raise InputError(f"differ takes two sets of pictures, or one run's confusions, as RUN:{CONFUSED}")
    pairs = confusions(run)[:_PAIRS]
    explainer, code = load_named(arguments), 0
    for number, (true, taken, count) in enumerate(pairs, 1):
        print(f"confused  {true} taken for {taken}: {count} images")
        sets = (f"{run}:{true}>{taken}", f"{run}:{true}>{true}")
        code = max(code, _compare(arguments, explainer, sets, arguments.output / str(number), options, share))
    return code


def _compare(
    arguments: argparse.Namespace,
    explainer: Explainer,
    sets: tuple[str, str],
    output: Path,
    options: Options,
    share: Share,
) -> int:
    from finercam_clip.differences import candidates_of, compared, embed_sides, is_embedded, output_of, sides_of

    settings: dict[str, Any] = sharing(arguments)
    sides = sides_of(*sets, arguments.split)
    folder = output_of(output, sides)
    candidates = candidates_of(explainer.loaded.space, arguments.concepts, arguments.template, options)
    summary = embed_sides(explainer, sides, folder, options, share=share, **settings)
    code = report_left_out("unreadable", summary.unreadable)
    if not is_embedded(folder):
        print(f"page      {folder}: not yet: some shards are missing; the last process writes it")
        return code
    differences = compared(explainer, candidates, sides, folder)
    page = differences.save(folder)
    print(differences.sizes())
    for note in differences.notes:
        print(f"note      {note}")
    print(differences.table())
    print(f"page      {page}, {folder / 'differ.png'}, {folder / 'differ.csv'}")
    return code
