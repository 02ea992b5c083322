"""The answer to one question: scores, the signed map, and what can be read off it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finercam_clip import checks, render
from finercam_clip.errors import InputError
from finercam_clip.geometry import Geometry
from finercam_clip.images import read_image
from finercam_clip.objectives import OF_MAPS
from finercam_clip.opencv import cv2
from finercam_clip.options import Options, Score
from finercam_clip.paths import is_file
from finercam_clip.significance import Significance
from finercam_clip.version import __version__

Box = tuple[int, int, int, int, float]


@dataclass(frozen=True, eq=False)
class Explanation:
    """Which pixels of the image speak for the target and not for the contrasts.

    Attributes:
        image: uint8 [H, W, 3] RGB, upright.
        geometry: From the grid to the image's pixels.
        grid: float32 [h, w], the signed map over the model's input before ReLU and scaling. It can be compared across
            questions.
        target: What was looked for.
        contrasts: What it was told apart from, background included.
        target_grid: The same method's map of the target alone.
        contrast_grid: Its map of the contrasts alone, as the objective puts them together: the strongest of each cell,
            or their mean. None without contrasts.
        similarities: Text -> cosine. For a classifier: class -> logit.
        probabilities: Text -> softmax over target and contrasts at the model's logit scale. For a classifier: class ->
            softmax over all of its classes (for a group the sum over its classes).
        options: How it was answered.
        model: The model's name.
        pretrained: Where its weights came from.
        score: What the similarities are, "cosine" or "logit".
        present_above: See `LoadedModel`.
        weight: What the target counts for in the difference: the slope of the objective, 1 in Finer-CAM's.
        significance: How the map stands among those of other concepts, the null; None without `Options.null`.

    Raises:
        InputError: A number is not finite.
    """

    image: NDArray[np.uint8]
    geometry: Geometry
    grid: NDArray[np.float32]
    target: str
    contrasts: tuple[str, ...]
    target_grid: NDArray[np.float32]
    contrast_grid: NDArray[np.float32] | None
    similarities: dict[str, float]
    probabilities: dict[str, float]
    options: Options
    model: str
    pretrained: str
    score: Score = "cosine"
    present_above: float | None = None
    weight: float = 1.0
    significance: Significance | None = None

    def __post_init__(self) -> None:
        scores = [*self.similarities.values(), *self.probabilities.values()]
        grids = [grid for grid in (self.grid, self.target_grid, self.contrast_grid) if grid is not None]
        if not (np.isfinite(scores).all() and all(np.isfinite(grid).all() for grid in grids)):
            raise InputError(
                f"the map or the scores of '{self.target}' are not finite: the model's weights, or gamma "
                f"{self.options.gamma:g}, are too large for its precision"
            )

    @cached_property
    def heatmap(self) -> NDArray[np.float32]:
        """float32 [H, W] in 0..1, on the pixels of the input image; 0 where preprocessing cropped the image away.

        It is the positive part of the map, divided by the map's largest absolute value. If most evidence is against
        the target, the map stays faint. It is never stretched to 1. A difference that is nearly nothing
        beside the target's own map stays faint, too (`render.full_scale`).
        """
        scale = render.full_scale(self.grid, self.target_grid, self.weight)
        return self.geometry.to_image(render.positive(self.grid, scale))

    @property
    def compared(self) -> bool:
        """Whether the probabilities say anything. For a text alone the probability is always 1."""
        return bool(self.contrasts) or self.score == "logit"

    @property
    def caution(self) -> str | None:
        """A warning in one sentence if the target is probably not in the image. Else None."""
        if self.pretrained == "random":
            return "random weights: this map means nothing"
        if not (self.grid > 0).any():
            return "nothing in the image speaks for the target"
        share = render.share_of(self.grid, self.target_grid, self.weight)
        if self.contrasts and share < render.FAINT:
            return f"target and contrasts say nearly the same: the difference is {share:.1%} of the target's own map"
        own = render.share_of(np.maximum(self.grid, 0), self.target_grid)
        if self.options.objective in OF_MAPS and own < render.FAINT:
            return f"hardly anything speaks for the target alone: {own:.1%} of what its own map reaches"
        best = max(self.similarities, key=lambda text: self.similarities[text])
        if best != self.target:
            return f"the image fits '{best}' better: the target may not be there"
        if self.present_above is not None and self.similarities[self.target] < self.present_above:
            return f"true texts reach a similarity of {self.present_above:.2f}: the target may not be there"
        return None if self.significance is None else self.significance.caution

    @property
    def peak(self) -> tuple[int, int] | None:
        """(x, y) of the hottest pixel, or None where nothing speaks for the target."""
        return render.peak_of(self.heatmap)

    @property
    def p_value(self) -> float | None:
        """How often another concept's map stands out as much anywhere (`significance`), or None without a null."""
        return None if self.significance is None else self.significance.p_value

    @property
    def specific(self) -> float | None:
        """How much of the target's map is about the target, 0..1 (`Significance`), or None without a null."""
        return None if self.significance is None else self.significance.specific

    @property
    def z(self) -> NDArray[np.float32] | None:
        """float32 [h, w], the map in standard deviations from what other concepts give, or None without a null."""
        return None if self.significance is None else self.significance.z

    @cached_property
    def region(self) -> NDArray[np.bool_]:
        """bool [H, W], the pixels that stand out from the null (`Significance.p_values`); none without one."""
        if self.significance is None:
            return np.zeros(self.image.shape[:2], np.bool_)
        region: NDArray[np.bool_] = self.geometry.to_image(self.significance.region) >= 0.5
        return region

    def boxes(self, threshold: float = 0.5) -> list[Box]:
        """Boxes (x0, y0, x1, y1, score) of the connected regions where the heatmap is at least `threshold`.

        They are in pixels of the image; x1 and y1 are one past the last. The score is the region's hottest value.
        """
        return self._boxes(self.heatmap >= checks.threshold(threshold, "the threshold of boxes"))

    def significant_boxes(self) -> list[Box]:
        """Boxes as `boxes` gives them, of the connected parts of `region`."""
        return self._boxes(self.region)

    def _boxes(self, region: NDArray[np.bool_]) -> list[Box]:
        count, labels, stats, _ = cv2.connectedComponentsWithStats(region.astype(np.uint8))
        boxes = []
        for i in range(1, count):
            x, y, w, h = (int(v) for v in stats[i, :4])
            window = slice(y, y + h), slice(x, x + w)
            score = float(self.heatmap[window][labels[window] == i].max())
            boxes.append((x, y, x + w, y + h, score))
        return sorted(boxes, key=lambda box: -box[4])

    def overlay(self, opacity: float = 0.85) -> NDArray[np.uint8]:
        """The heatmap over the image in grey, uint8 [H, W, 3]; a line surrounds what stands out (`region`).

        Args:
            opacity: That of the hottest pixel, 0..1.
        """
        overlay = render.overlay(self.image, self.heatmap, opacity=opacity, seen=self.geometry.seen)
        return render.outlined(overlay, self.region)

    def tiles(self) -> list[render.Tile]:
        """What `panel` shows: image, target alone, contrasts alone, difference; no larger than a panel shows them.

        Without contrasts there are only the first two. If the map should not be trusted, the last tile says why. With a
        null, a line surrounds there what stands out.
        """
        if max(self.image.shape[:2]) > render.TILE:  # drawn at the size it is shown at: 60 megapixels cost no more
            image = render.shrunk(self.image)
            geometry = replace(self.geometry, image=(image.shape[0], image.shape[1]))
            return replace(self, image=image, geometry=geometry).tiles()
        scale = float(np.abs(self.target_grid).max())  # one scale for both, so that they can be compared
        if self.contrast_grid is not None:
            scale = max(scale, float(np.abs(self.contrast_grid).max()))
        alone = self._tile(self.target_grid, scale, "target alone", self.target)
        standing = [] if self.significance is None else [self.significance.summary]
        tiles = [
            render.Tile(self.image, "image", f"{self.model} · {self.options.method}"),
            replace(alone, note=self._scores(self.target)),
        ]
        if self.contrast_grid is not None:
            shown = self.contrasts[:3]
            notes = [self._scores(text) for text in shown]
            if len(self.contrasts) > len(shown):
                notes.append(f"and {len(self.contrasts) - len(shown)} more")
            contrast = self._tile(self.contrast_grid, scale, "contrast alone", "\n".join(shown))
            tiles.append(replace(contrast, note="\n".join(notes)))
            difference = f"{self.options.objective}, gamma {self.options.gamma:g}"
            caption = [self.caution or difference, *standing]
            tiles.append(render.Tile(self.overlay(), "difference", "\n".join(caption), self.peak, bool(self.caution)))
        else:
            note = "\n".join([self.caution or tiles[-1].note, *standing])
            image = render.outlined(alone.image, self.region)
            tiles[-1] = replace(alone, image=image, note=note, warning=bool(self.caution))
        return tiles

    def panel(self) -> NDArray[np.uint8]:
        """Image | target alone | contrasts alone | difference, with texts and scores: uint8 [h, w, 3]."""
        return render.panel(self.tiles())

    def save(self, path: str | Path) -> Path:
        """Writes the `panel` as .png, .jpg or .webp: whole, or not at all.

        Raises:
            InputError: The ending is another, the place cannot be written to, or the image itself lies there.
        """
        path = render.check_output(path)
        if self._lies_at(path):
            raise InputError(f"{path} is the image that is explained, which is never overwritten: name another file")
        return render.write_picture(path, self.panel())

    def _lies_at(self, path: Path) -> bool:
        """Whether a file holds the image, by whatever path or link; pixels tell, since an array has no path."""
        try:
            picture = read_image(path) if is_file(path) else None
        except InputError:  # no image, or nothing that can be looked at: writing will say so
            return False
        return picture is not None and np.array_equal(np.asarray(picture), self.image)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the pixels, ready for JSON: question, scores, grid, peak, boxes, options, model, version."""
        return {
            "target": self.target,
            "contrasts": list(self.contrasts),
            "similarities": self.similarities,
            "probabilities": self.probabilities,
            "score": self.score,
            "caution": self.caution,
            "null": self._null(),
            "peak": self.peak,
            "boxes": self.boxes(),
            "grid": np.round(self.grid.astype(float), 6).tolist(),
            "image_size": {"width": self.image.shape[1], "height": self.image.shape[0]},
            "seen": self.geometry.seen,
            "options": self.options.plain(),
            "model": self.model,
            "pretrained": self.pretrained,
            "version": __version__,
        }

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), allow_nan=False)

    def _null(self) -> dict[str, Any] | None:
        """What the comparison with the null gives, ready for JSON."""
        significance = self.significance
        if significance is None:
            return None
        return {
            "texts": significance.texts,
            "level": significance.level,
            "p_value": significance.p_value,
            "specific": significance.specific,
            "boxes": self.significant_boxes(),
            "p_values": np.round(significance.p_values.astype(float), 6).tolist(),
            "z": np.round(significance.z.astype(float), 3).tolist(),
        }

    def _scores(self, text: str) -> str:
        return f"{self.score} {self.similarities[text]:.3f}, p {self.probabilities[text]:.2f}"

    def _tile(self, grid: NDArray[np.float32], scale: float, title: str, caption: str) -> render.Tile:
        heat = self.geometry.to_image(render.positive(grid, scale))
        return render.Tile(render.overlay(self.image, heat, seen=self.geometry.seen), title, caption)
