"""From a picture to the model's input, and the geometry of that way, so that the two cannot disagree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor

from finercam_clip import checks
from finercam_clip.errors import InputError
from finercam_clip.geometry import Geometry, geometry_of, pair
from finercam_clip.options import ImageSize

MOST_CELLS = 16_384  # attention over more needs tens of gigabytes


@dataclass(frozen=True)
class Preprocess:
    """A model's preprocessing.

    Attributes:
        cfg: open_clip's settings: size, mean, std, interpolation, resize mode, fill colour.
        crop: How much of the resized image's shorter side is kept (timm's crop_pct), at the model's own size.
        transform: The user's own, which is run at the model's own size. The settings must say what it does.
        fit: (H, W) of an image -> of the model's own input, where that follows the image (SigLIP 2 of any size).
    """

    cfg: PreprocessCfg
    crop: float = 1.0
    transform: Callable[[Image.Image], Tensor] | None = None
    fit: Callable[[tuple[int, int]], tuple[int, int]] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the model's own input, pixels."""
        return pair(self.cfg.size)

    def input_size(
        self, image_size: ImageSize, image: tuple[int, int], stride: tuple[int, int]
    ) -> tuple[tuple[int, int], bool]:
        """The size of the model's input for an image.

        Args:
            image_size: None, the model's own; a number, for a square; (H, W); or "native", the size of the image
                itself, each side rounded to whole cells.
            image: (H, W) of the image, pixels.
            stride: (height, width) of a cell, pixels.

        Returns:
            (H, W), and whether the image is squeezed into it instead of cropped.

        Raises:
            InputError: Another value, or sides that are not whole cells, or more cells than a model can be asked about.
        """
        image_size = checks.size(image_size)
        if image_size is None:
            return (self.size, False) if self.fit is None else (self.fit(image), True)
        if image_size == "native":
            sides = [max(round(side / cell), 1) * cell for side, cell in zip(image, stride, strict=True)]
        else:
            sides = [image_size, image_size] if isinstance(image_size, int) else list(image_size)
        for side, cell, usual in zip(sides, stride, self.size, strict=True):
            if side != usual and (side < cell or side % cell):
                near = max(round(side / cell), 1) * cell
                raise InputError(f"image_size {side}: this model takes multiples of {cell}, as {near}")
        height, width = sides
        cells = (height // stride[0]) * (width // stride[1])
        if cells > MOST_CELLS:
            raise InputError(
                f"image_size {width} x {height} has {cells:,} cells, more than {MOST_CELLS:,}: choose a smaller one"
            )
        return (height, width), image_size == "native"

    def __call__(
        self, image: Image.Image, size: tuple[int, int] | None = None, *, squeeze: bool = False
    ) -> tuple[Tensor, Geometry]:
        """An RGB image as the model's input [3, H, W], and where that lies on the image.

        Args:
            image: The image.
            size: (H, W) of the input, by default the model's own.
            squeeze: Whether the image is squeezed into the input instead of cropped.
        """
        size = size or self.size
        mode = "squash" if squeeze else self.cfg.resize_mode
        crop = self.crop if size == self.size and not squeeze else 1.0
        geometry = geometry_of((image.height, image.width), size, mode, crop)
        if self.transform is not None and size == self.size and not squeeze:
            return self.transform(image), geometry
        if crop < 1:
            image = _cropped(image, geometry, self.cfg.interpolation)
        pixels: Tensor = image_transform_v2(replace(self.cfg, size=size, resize_mode=mode), is_train=False)(image)
        return pixels, geometry


def _cropped(image: Image.Image, geometry: Geometry, interpolation: str) -> Image.Image:
    """The middle of the resized image, at the size of the model's input: resizing once, as the model's own does."""
    kind = Image.Resampling.BILINEAR if interpolation == "bilinear" else Image.Resampling.BICUBIC
    (y, x), (h, w) = geometry.offset, geometry.size
    return image.resize(geometry.resized[::-1], kind).crop((x, y, x + w, y + h))
