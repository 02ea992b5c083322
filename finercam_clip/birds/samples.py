"""What a step of training draws: views of photographs, and texts that are true or false of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finercam_clip.birds import words
from finercam_clip.birds.losses import relative
from finercam_clip.birds.pictures import POINTS, Photographs, groups_of_traits, view
from finercam_clip.birds.questions import false_value
from finercam_clip.birds.words import GROUPS, PARTS, TRAITS

_NAMED_FROM = 0.35  # the share of its group that a value needs to be said
_MOST = 4  # traits of a caption
_NAMES = 0.15  # share of captions that are a species' name
_PARTS_GROUPS = tuple(tuple(i for i, group in enumerate(GROUPS) if group.part == part) for part in PARTS)


@dataclass(frozen=True, eq=False)
class Texts:
    """What is said of a batch of B pictures.

    Attributes:
        target: A true trait of each part, an index into `words.TRAITS`, [B, P].
        contrast: Another value of the same group, false, drawn as often as it occurs, [B, P].
        sure: How sure annotators are of the true one, 0..1; 0: nothing is said of that part, [B, P].
        captions: 2B texts. Text i < B is true of picture i; text B + i is the same with one trait changed, or another
            species' name.
        claims: Which traits each caption says, 0 or 1, [2B, K]; none for names.
        changed: The part whose trait is changed, [B]; -1 where captions are names.
        names: The species that each of the first B captions names; -1 for traits, [B].
    """

    target: Tensor
    contrast: Tensor
    sure: Tensor
    captions: list[str]
    claims: Tensor
    changed: Tensor
    names: Tensor


def draw_texts(
    photographs: Photographs, species: NDArray[np.int64], visible: NDArray[np.bool_], rng: np.random.Generator
) -> Texts:
    """Texts about pictures.

    Args:
        photographs: All that training sees.
        species: Of each picture, [B].
        visible: Which parts it shows, [B, P].
        rng: Draws the traits and the words.
    """
    count, places = len(species), groups_of_traits()
    target, contrast = (np.zeros((count, len(PARTS)), np.int64) for _ in range(2))
    sure = np.zeros((count, len(PARTS)), np.float32)
    captions: list[str] = []
    changed_captions: list[str] = []
    claims = np.zeros((2 * count, len(TRAITS)), np.float32)
    changed, names = (np.full(count, -1) for _ in range(2))
    trained = np.unique(photographs.species)
    for i, (kind, shown) in enumerate(zip(species, visible, strict=True)):
        own = photographs.values[kind]
        for part in np.flatnonzero(shown):
            groups = [group for group in _PARTS_GROUPS[part] if own[places[group]].max() >= _NAMED_FROM]
            if not groups:
                continue
            group = int(rng.choice(groups))
            other = false_value(photographs, own, group, rng)
            if other is not None:
                target[i, part] = places[group].start + int(own[places[group]].argmax())
                contrast[i, part], sure[i, part] = other, own[places[group]].max()
        said = np.flatnonzero(sure[i])
        if not len(said) or rng.random() < _NAMES:
            names[i] = kind
            seed = int(rng.integers(1 << 32))
            for number, into in ((kind, captions), (int(rng.choice(trained[trained != kind])), changed_captions)):
                into.append(words.named(photographs.classes[number], np.random.default_rng(seed)))
            continue
        parts = rng.permutation(said)[: rng.integers(1, _MOST + 1)]
        changed[i] = parts[0]
        true, false = target[i, parts], np.concatenate([contrast[i, parts[:1]], target[i, parts[1:]]])
        order, seed = rng.permutation(len(parts)), int(rng.integers(1 << 32))
        for traits, row, into in ((true, i, captions), (false, count + i, changed_captions)):
            claims[row, traits] = 1
            into.append(words.describe([TRAITS[t] for t in traits[order]], np.random.default_rng(seed)))
    return Texts(
        target=torch.from_numpy(target),
        contrast=torch.from_numpy(contrast),
        sure=torch.from_numpy(sure),
        captions=captions + changed_captions,
        claims=torch.from_numpy(claims),
        changed=torch.from_numpy(changed),
        names=torch.from_numpy(names),
    )


def true_of(texts: Texts, photographs: Photographs, species: Sequence[int] | NDArray[np.int64]) -> Tensor:
    """Whether each caption is true of each picture of a batch, bool [B, 2B]: all that it claims is at least half as
    sure as the surest value, or it names the picture's own species."""
    values = torch.from_numpy(photographs.values[species])
    sure = relative(values)
    true = (texts.claims @ (sure < 0.5).float().T == 0).T & (texts.claims.sum(1) > 0)
    named = texts.names >= 0
    own = torch.as_tensor(np.asarray(species))
    true[:, : len(named)] |= named & (texts.names == own[:, None])
    return true


class KeptViews:
    """What the frozen base of the network sees of views, and where their parts are, kept once it is computed.

    Neither depends on what is trained. Each view is computed by itself, so what is kept does not depend on the batch.
    """

    def __init__(
        self,
        folder: Path,
        photographs: Photographs,
        base: Callable[[Tensor], Tensor],
        shape: tuple[int, int, int],
        *,
        views: int,
        size: int,
    ) -> None:
        """Opens or makes the files.

        Args:
            folder: Of the files.
            photographs: All that training sees.
            base: From pixels [1, 3, size, size], -1..1, to features [1, channels, h, w].
            shape: (channels, h, w).
            views: Of each photograph.
            size: Pixels along each side of a view.
        """
        self.photographs, self.base, self.size = photographs, base, size
        rows = (views, len(photographs))
        self.features = _kept(folder / "features.npy", np.float16, (*rows, *shape))
        self.points = _kept(folder / "points.npy", np.float32, (*rows, len(PARTS), POINTS, 2))
        self.done = _kept(folder / "done.npy", np.bool_, rows)

    def of(self, views: NDArray[np.int64], indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """The features of a batch of views, [B, channels, h, w], and their points in pixels, [B, P, clicks, 2]."""
        for number, index in zip(views.tolist(), indices.tolist(), strict=True):
            if not self.done[number, index]:
                picture, points = view(self.photographs, index, number, self.size)
                features = self.base(torch.from_numpy(picture).permute(2, 0, 1)[None] / 127.5 - 1)
                self.features[number, index] = features[0].numpy()
                self.points[number, index] = points
                self.done[number, index] = True
        pairs = list(zip(views, indices, strict=True))
        features = torch.from_numpy(np.stack([self.features[v, i] for v, i in pairs])).float()
        return features, torch.from_numpy(np.stack([self.points[v, i] for v, i in pairs]))


def _kept(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> NDArray[Any]:
    mode: Literal["r+", "w+"] = "r+" if path.exists() else "w+"
    return np.lib.format.open_memmap(path, mode, dtype, shape)
