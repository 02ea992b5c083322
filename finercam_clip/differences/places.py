"""Where two sets differ: the mean heat of a text, and the images that show it best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from finercam_clip import progress, render
from finercam_clip.datasets import Item
from finercam_clip.differences.candidates import Candidates
from finercam_clip.explainer import Explainer
from finercam_clip.explanation import Explanation

CLEAREST = 3  # images of each set that are shown
MAPPED = 100  # images whose heat is averaged; of more, so many evenly spaced
CANVAS = 120  # pixels along each side of a mean map: every image is stretched to this square
_BATCH = 16


@dataclass(frozen=True, eq=False)
class Shown:
    """An image that shows what a text is about.

    Attributes:
        name: The image.
        score: How far the text leads on it, in logits.
        image: uint8 [h, w, 3], shrunk.
        overlay: The text's heat over it.
        peak: (x, y) of the hottest pixel of the image as it was read, or None.
    """

    name: str
    score: float
    image: render.Picture
    overlay: render.Picture
    peak: tuple[int, int] | None


@dataclass(frozen=True, eq=False)
class Place:
    """Where a text has its evidence.

    Attributes:
        a: The images of A that are clearest about it: where A has more of it those with the most, else the least.
        b: The images of B.
        heat: float32 [CANVAS, CANVAS] in 0..1, the mean of the signed maps of the images of the set that has more of
            it, scaled as a single map is.
        mean: The mean of those images, uint8 [CANVAS, CANVAS, 3].
        mapped: How many images that is of.
    """

    a: tuple[Shown, ...]
    b: tuple[Shown, ...]
    heat: NDArray[np.float32]
    mean: render.Picture
    mapped: int


@dataclass
class _Sums:
    """What is added up over the images of a set."""

    grid: NDArray[np.float64] = field(default_factory=lambda: np.zeros((CANVAS, CANVAS)))
    alone: NDArray[np.float64] = field(default_factory=lambda: np.zeros((CANVAS, CANVAS)))
    image: NDArray[np.float64] = field(default_factory=lambda: np.zeros((CANVAS, CANVAS, 3)))
    count: int = 0

    def add(self, explanation: Explanation) -> None:
        geometry = replace(explanation.geometry, image=(CANVAS, CANVAS))
        self.grid += geometry.to_image(explanation.grid)
        self.alone += geometry.to_image(explanation.target_grid)
        self.image += render.stretched(explanation.image, (CANVAS, CANVAS))
        self.count += 1


def places_of(
    explainer: Explainer,
    candidates: Candidates,
    texts: Sequence[int],
    items: tuple[Mapping[str, Item], Mapping[str, Item]],
    scores: tuple[NDArray[np.float64], NDArray[np.float64]],
    more_in_a: NDArray[np.bool_],
) -> list[Place]:
    """The places of some texts. Each image that is needed is encoded once more, and asked about all of them.

    Args:
        explainer: The model.
        candidates: All texts.
        texts: Which of them.
        items: The images of A and of B by name, in the order of the scores.
        scores: Of A and of B, [images, texts].
        more_in_a: Which texts A has more of, [all texts].
    """
    questions = [candidates.question(text) for text in texts]
    clear = [
        [_clearest(own[:, text], highest=bool(more_in_a[text]) == (side == 0)) for side, own in enumerate(scores)]
        for text in texts
    ]
    spaced = [np.unique(np.linspace(0, len(own) - 1, min(len(own), MAPPED)).round().astype(int)) for own in scores]
    shown: dict[tuple[int, int, int], Shown] = {}  # row, side, image
    sums = [_Sums() for _ in texts]
    for side in (0, 1):
        named = list(items[side].items())
        averaged = {i for i in spaced[side].tolist() if any(more_in_a[text] == (side == 0) for text in texts)}
        wanted = sorted(averaged | {i for row in clear for i in row[side]})
        options = candidates.options.encoding()
        for start in progress.each(range(0, len(wanted), _BATCH), "maps", unit="batch"):
            indices = wanted[start : start + _BATCH]
            encodings = explainer.encode([named[i][1].read() for i in indices], **options)
            for i, encoding in zip(indices, encodings, strict=True):
                for row, (text, question) in enumerate(zip(texts, questions, strict=True)):
                    is_clear, counts = i in clear[row][side], i in averaged and more_in_a[text] == (side == 0)
                    if not is_clear and not counts:
                        continue
                    explanation = encoding.answer(question)
                    if counts:
                        sums[row].add(explanation)
                    if is_clear:
                        shown[row, side, i] = _shown(named[i][0], float(scores[side][i, text]), explanation)
    return [
        _place(sums[row], *([shown[row, side, i] for i in clear[row][side]] for side in (0, 1)))
        for row in range(len(texts))
    ]


def _clearest(scores: NDArray[np.float64], *, highest: bool) -> list[int]:
    order = np.argsort(-scores if highest else scores, kind="stable")
    return [int(i) for i in order[:CLEAREST]]


def _shown(name: str, score: float, explanation: Explanation) -> Shown:
    small = render.shrunk(explanation.image)
    geometry = replace(explanation.geometry, image=(small.shape[0], small.shape[1]))
    pictured = replace(explanation, image=small, geometry=geometry)
    return Shown(name, score, small, pictured.overlay(), explanation.peak)


def _place(sums: _Sums, a: Sequence[Shown], b: Sequence[Shown]) -> Place:
    grid, alone = (total.astype(np.float32) / max(sums.count, 1) for total in (sums.grid, sums.alone))
    heat = render.positive(grid, render.full_scale(grid, alone))
    mean = (sums.image / max(sums.count, 1)).round().astype(np.uint8)
    return Place(tuple(a), tuple(b), heat, mean, sums.count)
