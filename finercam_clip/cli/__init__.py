"""The command line: `main` parses the arguments and runs one command.

Each module holds some commands, each with its arguments and examples beside the function that runs it. What they share
stands in `arguments`. Torch and other heavy packages are imported inside the functions, so that `--help` answers at
once.
"""

from __future__ import annotations

import argparse
import os
import warnings
from contextlib import nullcontext
from typing import Any, NoReturn

from finercam_clip import progress
from finercam_clip.cli import data, differ, evaluate, explain, fit, tables, traits
from finercam_clip.cli.arguments import Run
from finercam_clip.cli.terminal import complain, finish, prepare
from finercam_clip.errors import InputError, UnfinishedError
from finercam_clip.paths import reason
from finercam_clip.version import __version__


class _Parser(argparse.ArgumentParser):
    """Prints one line on stderr for a wrong argument and exits with code 2."""

    def error(self, message: str) -> NoReturn:
        complain(f"{self.prog}: error: {message} (see {self.prog} --help)")
        self.exit(2)

    def _print_message(self, message: str, file: Any = None) -> None:
        """Prints --help and --version. argparse's own would not say that stdout is full."""
        if message and file is not None:
            file.write(message)


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

    for module in (explain, data, traits, differ, fit, evaluate, tables):
        module.add_commands(add_command)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: The words of the command line, by default those of this process.

    Returns:
        The exit code:

        * 0: everything is done.
        * 1: something had to be left out, with one line on stderr for each, or work stopped after some of it was
          written.
        * 2: the user can mend what is wrong, and one line on stderr says how.
        * 130: the command was interrupted.
    """
    prepare()
    try:
        code = _run(arguments)
    except SystemExit as end:  # argparse: --help, or a wrong argument
        raise SystemExit(finish(int(end.code or 0))) from None
    return finish(code)


def _run(arguments: list[str] | None) -> int:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler prints lines of its own
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.showwarning = _show_warning
        try:
            options = build_parser().parse_args(arguments)
            with progress.silenced() if options.quiet else nullcontext():
                return options.run(options) or 0
        except InputError as error:
            complain(f"finercam-clip: error: {error}")
            return 1 if isinstance(error, UnfinishedError) else 2
        except KeyboardInterrupt:
            complain("finercam-clip: stopped")
            return 130
        except BrokenPipeError:
            return 1
        except OSError as error:  # of stdout, as a rule: whatever else is read or written has a line of its own
            complain(f"finercam-clip: error: {reason(error)}")
            return 1
        except MemoryError:
            complain("finercam-clip: error: there is not enough memory for it: give smaller images, or fewer at a time")
            return 1


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    complain(f"finercam-clip: warning: {message}")
