"""What loaders share: device, precision, random weights, and one line for every way to fail."""

from __future__ import annotations

import logging
import os
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, get_args

import open_clip
import timm
import torch

from finercam_clip.checks import choice
from finercam_clip.errors import InputError, one_line, shown
from finercam_clip.options import Precision
from finercam_clip.paths import check_file, look

RANDOM = "random"  # the word for untrained weights
_MISFITS = ("size mismatch", "Missing key", "Unexpected key", "width changed")  # torch and open_clip have no own errors


def device_named(device: str | None) -> torch.device:
    """The device of a name; None: CUDA where there is one, else the CPU. Raises InputError if it is not here."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            place = torch.device(device)
            if float(torch.ones(1, device=place).sum()) != 1:  # torch has devices that compute nothing, as "meta"
                raise RuntimeError("it does not compute")
    except Exception as error:  # every device that this build of torch lacks has its own
        reason = one_line((str(error).strip() or type(error).__name__).splitlines()[0], 120)
        name = f"'{device}'" if isinstance(device, str) else shown(device)
        raise InputError(
            f"the device {name} cannot be used here ({reason}); leave it out to use what there is"
        ) from error
    return place


def dtype_named(precision: str) -> torch.dtype:
    """The type of the pixels at a precision. Raises InputError if there is no such precision."""
    choice(precision, get_args(Precision), "precision")
    return open_clip.get_input_dtype(precision) or torch.float32


def warn_of_random(name: str) -> None:
    """Untrained weights must never look like an explanation."""
    warnings.warn(f"{name} with RANDOM weights: its heatmaps mean nothing; for tests and benchmarks", stacklevel=4)


@contextmanager
def seeded() -> Iterator[None]:
    """Inside, random weights are the same every time; the generator's state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Other libraries' log lines held back."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(level)


def created(name: str, **settings: Any) -> Any:
    """A model of timm, without its log lines."""
    with quiet():
        return timm.create_model(name, **settings)


def checkpoint_file(path: str, missing: str) -> str:
    """Makes sure that a checkpoint is a regular file. Raises InputError, with `missing` if nothing is there."""
    if look(path) is None:
        raise InputError(missing)
    check_file(path)
    return path


class MisfitError(InputError):
    """A checkpoint is of another architecture."""

    def __init__(self, checkpoint: str, name: str) -> None:
        super().__init__(f"the checkpoint {checkpoint} does not fit {name}: it is of another architecture")


@contextmanager
def loading_errors(name: str, checkpoint: str | None) -> Iterator[None]:
    """The many exceptions of libraries that load weights, turned into one line; their log lines held back.

    Args:
        name: What is loaded.
        checkpoint: The tag or the file of its weights.
    """
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{checkpoint} is not a plain checkpoint: it holds code or objects, which are never executed"
        ) from error
    except Exception as error:
        raise _told(error, name, checkpoint) from error


def _told(error: Exception, name: str, checkpoint: str | None) -> InputError:
    """The line for an exception of another library: by its type where it has one, else by its words."""
    reason = one_line(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__, 200)
    if checkpoint and any(sign in str(error) for sign in _MISFITS):
        return MisfitError(checkpoint, name)
    if checkpoint and os.path.isfile(checkpoint):  # noqa: PTH113 - False, not an OSError, for a name no file can have
        return InputError(f"{checkpoint} cannot be read as a checkpoint: {reason}")
    weights = f"{name} ({checkpoint})" if checkpoint else name
    if isinstance(error, ImportError) or "transformers" in reason:
        return InputError(
            f"{weights}: its text tower or tokenizer comes from the Hugging Face hub: pip install 'finercam_clip[hf]'"
        )
    if isinstance(error, ConnectionError) or "download" in reason.lower() or "connect" in reason.lower():
        return InputError(
            f"the weights of {weights} could not be downloaded: check the name and the connection, or give a local "
            "checkpoint file as pretrained"
        )
    return InputError(f"{weights} could not be loaded: {reason}")
