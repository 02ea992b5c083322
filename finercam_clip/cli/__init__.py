"""The command line: `main` parses the arguments and runs one command.

Each module holds some commands, each with its arguments and examples beside the function that runs it. What they share
stands in `arguments`. Torch and other heavy packages are imported inside the functions, so that `--help` answers at
once.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import warnings
from typing import Any, NoReturn

from finercam_clip import __version__, progress
from finercam_clip.cli import data, evaluate, explain, tables
from finercam_clip.cli.arguments import Run
from finercam_clip.errors import InputError


class _Parser(argparse.ArgumentParser):
    """Prints one line on stderr for a wrong argument and exits with code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands. The parsed `run` is the function of the command."""
    parser = _Parser(
        prog="finercam-clip", description="Which pixels of an image speak for one concept and not for others?"
    )
    parser.add_argument("--version", action="version", version=f"finercam-clip {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)

    def add_command(name: str, help: str, run: Run, *examples: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            help=help,
            description=f"{help[0].upper()}{help[1:]}.",
            epilog="\n  ".join(["examples:" if len(examples) > 1 else "example:", *examples]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("--quiet", action="store_true", help="no progress: results, warnings and errors only")
        command.set_defaults(run=run)
        return command

    for module in (explain, data, evaluate, tables):
        module.add_commands(add_command)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: The words of the command line, by default those of this process.

    Returns:
        The exit code:

        * 0: everything is done.
        * 1: something had to be left out, with one line on stderr for each.
        * 2: the user can mend what is wrong, and one line on stderr says how.
        * 130: the command was interrupted.
    """
    options = build_parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):  # a terminal that cannot show a letter shows "?"
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    if options.quiet:
        os.environ[progress.SWITCH] = "1"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.showwarning = _show_warning
        try:
            return options.run(options) or 0
        except InputError as error:
            print(f"finercam-clip: error: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("finercam-clip: stopped", file=sys.stderr)
            return 130
        except BrokenPipeError:
            sys.stderr.close()
            return 1


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"finercam-clip: warning: {message}", file=sys.stderr)
