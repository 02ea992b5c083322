"""Classes: their names, found loosely but never silently wrong, and the linear head that gives each its direction."""

from __future__ import annotations

import difflib
import pickle
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from finercam_clip.errors import InputError
from finercam_clip.prompts import Concept, folder_names, read_prompts

HEAD_FORMATS = (".pth", ".pt", ".bin", ".safetensors", ".npz")


@dataclass(frozen=True, eq=False)
class Classes:
    """A linear head: what texts are to CLIP.

    names: K, no two alike. rows: float32 [K, D + 1], each class's weights and then its bias. With features f and a 1
    behind them the logit w . f + b is a dot product like any other, and since nothing moves that 1, the bias is in the
    scores and never in a map.
    """

    names: tuple[str, ...]
    rows: Tensor

    def index(self, name: str) -> int:
        """The class that is called so, whatever the case, punctuation, spacing or numbering ("001.").

        A class named by synonyms, "tench, Tinca tinca", is called by each of them.

        Raises:
            InputError: no class is, or several are; the message has those that come near.
        """
        if name in self._exact:
            return self._exact[name]
        found = self._called.get(normalised(name), [])
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(f"'{name}' is the name of {len(found)} classes: {self._listed(found)}; give one of these")
        near = self._near(name)
        hint = f"did you mean {self._listed(near)}?" if near else f"they are such as {self._listed(range(3))}"
        raise InputError(f"there is no class '{name}' among the {len(self.names)} of this classifier; {hint}")

    def concept(self, concept: Concept) -> Concept:
        """The concept by its classes' own names; several are a group of classes."""
        return Concept(tuple(dict.fromkeys(self.names[self.index(text)] for text in concept.texts)))

    def directions(self, concepts: Sequence[Concept]) -> Tensor:
        """A row a concept, [len(concepts), D + 1]: its class's, or the mean over a group's."""
        return torch.stack([self.rows[self._indices(concept)].mean(0) for concept in concepts])

    def probabilities(self, concepts: Sequence[Concept], embedding: Tensor) -> Tensor:
        """The softmax over ALL classes, [len(concepts)]: a class's, or the sum over a group's. embedding: [D + 1]."""
        every = (self.rows @ embedding).softmax(0)
        return torch.stack([every[self._indices(concept)].sum() for concept in concepts])

    def _indices(self, concept: Concept) -> list[int]:
        return [self._exact[text] for text in concept.texts]

    @cached_property
    def _exact(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}

    @cached_property
    def _called(self) -> dict[str, list[int]]:
        """Normalised name -> classes. A whole name goes before another class's synonym."""
        whole: dict[str, list[int]] = {}
        parts: dict[str, list[int]] = {}
        for i, name in enumerate(self.names):
            plain = re.sub(r" #\d+$", "", name)  # the number that tells namesakes apart
            whole.setdefault(normalised(plain), []).append(i)
            for part in plain.split(","):
                if i not in parts.setdefault(normalised(part), []):
                    parts[normalised(part)].append(i)
        return parts | whole

    def _near(self, name: str) -> list[int]:
        """Classes that have all words of the name, then those that are spelt like it; five at most."""
        words = set(_words(name))
        holding = [i for i, other in enumerate(self.names) if words and words <= set(_words(other))]
        spelt = difflib.get_close_matches(normalised(name), self._called, n=5, cutoff=0.7)
        return list(dict.fromkeys([*holding, *(i for key in spelt for i in self._called[key])]))[:5]

    def _listed(self, indices: Sequence[int]) -> str:
        return ", ".join(f"'{self.names[i]}'" for i in indices if i < len(self.names))


def normalised(name: str) -> str:
    """Letters and digits only, without case, accents and a leading number as in "001.Black_footed_Albatross"."""
    return "".join(_words(re.sub(r"^\s*\d+\s*\.", "", name)))


def _words(name: str) -> list[str]:
    plain = unicodedata.normalize("NFKD", name.casefold())
    return re.findall(r"[^\W_]+", "".join(letter for letter in plain if not unicodedata.combining(letter)))


def with_classes(weight: Tensor, bias: Tensor, names: Sequence[str] | None) -> Classes:
    """The head [K, D] and [K] under its names; without names the classes are called by their numbers, "0", "1", ...

    Namesakes get their number behind them ("crane #134").

    Raises:
        InputError: there are not as many names as rows.
    """
    names = [str(i) for i in range(len(weight))] if names is None else [name.strip() for name in names]
    if len(names) != len(weight):
        raise InputError(f"{len(names)} class names for a head of {len(weight)} classes: give one a row, in its order")
    if not all(names):
        raise InputError(f"the name of class {names.index('')} is empty")
    keys = [normalised(name) or name for name in names]
    twice = {key for key in keys if keys.count(key) > 1} if len(set(keys)) < len(keys) else set()
    unique = tuple(
        f"{name} #{i}" if key in twice else name for i, (name, key) in enumerate(zip(names, keys, strict=True))
    )
    return Classes(unique, torch.cat([weight.float(), bias.float()[:, None]], 1))


def class_names(source: str | Path | Sequence[str]) -> list[str]:
    """Class names in the order of the head: as given, from a text file (one a line), or those of a folder's folders.

    Raises:
        InputError: there is no such file or folder, or it holds none (see `prompts.folder_names`).
    """
    if not isinstance(source, (str, Path)):
        return list(source)
    return folder_names(source) if Path(source).is_dir() else read_prompts(source)


def read_head(path: str | Path) -> tuple[Tensor, Tensor]:
    """A linear layer from a file: weight, float32 [classes, dim], and bias, [classes] (zeros where there is none).

    Formats: .pth and its like (tensors only, nothing is unpickled), .safetensors, .npz. The names may have a prefix
    ("linear.weight"), if there is one such layer.

    Raises:
        InputError: the file cannot be read, or is not one linear layer of finite numbers.
    """
    path = Path(path)
    if path.suffix.lower() not in HEAD_FORMATS:
        raise InputError(f"{path}: a head's file name ends in {', '.join(HEAD_FORMATS)}")
    if not path.is_file():
        raise InputError(f"{path}: no such file; a head has 'weight' [classes, dim] and 'bias' [classes]")
    tensors = tensors_in(path)
    weights = [name for name, tensor in tensors.items() if name.split(".")[-1] == "weight" and tensor.ndim == 2]
    if len(weights) != 1:
        held = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in list(tensors.items())[:6]) or "nothing"
        raise InputError(f"{path} is not one linear head, 'weight' [classes, dim] and 'bias' [classes]: it has {held}")
    weight = tensors[weights[0]].float()
    bias = tensors.get(weights[0].removesuffix("weight") + "bias", torch.zeros(len(weight))).float()
    if bias.shape != (len(weight),):
        raise InputError(f"{path}: the bias is {list(bias.shape)} for a weight of {list(weight.shape)}")
    if not (weight.isfinite().all() and bias.isfinite().all()):
        raise InputError(f"{path} holds numbers that are not finite")
    return weight, bias


def tensors_in(path: Path) -> dict[str, Tensor]:
    """The named tensors of a .safetensors, .npz or torch file. Nothing is unpickled.

    Raises:
        InputError: the file is none of these, is damaged, or holds code.
    """
    try:
        if path.suffix.lower() == ".safetensors":
            found = load_file(path)
        elif path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                found = {name: torch.from_numpy(np.asarray(arrays[name], np.float32)) for name in arrays.files}
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
            if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
                found = found["state_dict"]
    except pickle.UnpicklingError as error:
        raise InputError(f"{path} is not plain tensors: it holds code or objects, which are never executed") from error
    except Exception as error:  # each format has its own dozen of exceptions for damaged files
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} cannot be read: {reason[:200]}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} holds a {type(found).__name__}, not named tensors 'weight' and 'bias'")
    return {str(name): tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}
