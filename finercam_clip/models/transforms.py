"""Transforms of other libraries to a `Preprocess`: what the user's own tool does is what is explained.

Known steps are read; an unknown one is an error, never a guess. What was read is then checked on two drawn images: each
pixel of the model's input must come from where the geometry says, in the colour that the normalisation says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.transform import PreprocessCfg
from PIL import Image
from torch import Tensor
from torchvision import transforms

from finercam_clip.errors import InputError
from finercam_clip.geometry import pair
from finercam_clip.preprocess import Preprocess

_TO_TENSOR = ("ToTensor", "MaybeToTensor", "PILToTensor", "MaybePILToTensor", "ToImage", "ToDtype", "ConvertImageDtype")
_PROBES = ((300, 500), (420, 260))  # (H, W) of the drawn images
_TOLERANCE = 0.03  # of 0..1, in colour: rounding to 8 bits, and kernels of several widths

# What tools of the field do, under their names.
NAMED: dict[str, Callable[[], Any]] = {
    "pybioclip": lambda: transforms.Compose(
        [
            transforms.ToTensor(),
            transforms.Resize((224, 224), antialias=True),
            transforms.Normalize(OPENAI_DATASET_MEAN, OPENAI_DATASET_STD),
        ]
    ),
}


@dataclass
class _Read:
    """What the steps of a transform come to."""

    resize: tuple[int, ...] = ()  # (shorter or longest side,) or (height, width)
    mode: str = ""
    crop: tuple[int, int] | None = None
    interpolation: str = "bilinear"
    mean: Any = None
    std: Any = None
    fill: int = 0


def preprocess_of(transform: Any) -> Preprocess:
    """A transform as a `Preprocess`.

    Args:
        transform: A name in `NAMED`; a `Compose` of torchvision, timm or open_clip; a preset of torchvision's weights;
            or an image processor of Hugging Face, alone or within its processor.

    Raises:
        InputError: It has a step that is not known, or does not do what its steps say.
    """
    if isinstance(transform, Preprocess):
        return transform
    if isinstance(transform, str):
        if transform not in NAMED:
            raise InputError(f"there is no preprocessing '{transform}'; there are {', '.join(NAMED)}, or a transform")
        transform = NAMED[transform]()
    processor = getattr(transform, "image_processor", transform)
    if hasattr(processor, "image_mean") and hasattr(processor, "preprocess"):
        preprocess = _of_processor(processor)
    elif all(hasattr(transform, name) for name in ("crop_size", "resize_size", "mean", "std", "interpolation")):
        read = _Read((*transform.resize_size,), "shortest", pair(_one(transform.crop_size)))
        read.interpolation, read.mean, read.std = _kernel(transform.interpolation), transform.mean, transform.std
        preprocess = _settled(read, transform)
    elif hasattr(transform, "transforms"):
        preprocess = _settled(_steps(transform.transforms), transform)
    else:
        raise InputError(
            f"preprocess is a torchvision transform, a processor of Hugging Face, or one of {', '.join(NAMED)}; "
            f"not {type(transform).__name__}"
        )
    _check(preprocess)
    return preprocess


def _steps(steps: Iterable[Any]) -> _Read:
    read = _Read()
    for step in steps:
        name = type(step).__name__
        if name in ("Resize", "ResizeKeepRatio"):
            read.resize, read.interpolation = _sides(step.size), _kernel(step.interpolation)
            longest = name == "ResizeKeepRatio" and float(getattr(step, "longest", 0)) == 1
            read.mode = "longest" if longest else "shortest" if len(read.resize) == 1 else "squash"
            if name == "ResizeKeepRatio" and not longest:
                read.mode, read.resize = "shortest", read.resize[:1] if len(set(read.resize)) == 1 else read.resize
            if getattr(step, "max_size", None) is not None:
                raise _unknown(f"{name} with max_size")
        elif name in ("CenterCrop", "CenterCropOrPad"):
            read.crop, read.fill = pair(_one(step.size)), int(getattr(step, "fill", 0) or 0)
        elif name == "Normalize":
            read.mean, read.std = step.mean, step.std
        elif name not in _TO_TENSOR and not _leaves_rgb_alone(step):
            raise _unknown(getattr(step, "__name__", name))
    return read


def _unknown(step: str) -> InputError:
    return InputError(
        f"the preprocessing has the step '{step}', whose geometry is not known: give the transform for evaluation, "
        "made of resizing, a centre crop and normalising"
    )


def _leaves_rgb_alone(step: Any) -> bool:
    """Whether a step only converts to RGB: on an image that is RGB already it changes nothing."""
    probe = _drawn((24, 40))
    try:
        output = step(probe)
    except Exception:  # a step of any library, of which nothing is known
        return False
    return isinstance(output, Image.Image) and output.mode == "RGB" and output.tobytes() == probe.tobytes()


def _settled(read: _Read, transform: Any) -> Preprocess:
    """The settings that the steps come to; at the model's own size the transform itself is what runs."""
    if not read.resize or read.mean is None:
        raise InputError("the preprocessing must resize and normalise: give the transform that the model was made with")
    if read.mode == "shortest" and len(read.resize) == 1 and read.crop is None:
        raise InputError("the preprocessing does not give images of one size: end it with a centre crop")
    size = read.crop or pair(_one(read.resize))
    crop = 1.0
    if read.mode == "shortest" and len(read.resize) == 1:
        if read.resize[0] < max(size):
            raise InputError(
                f"the preprocessing crops {size[1]} x {size[0]} out of images whose side is {read.resize[0]}"
            )
        crop = (
            min(size[0] / (read.resize[0] + 0.5), 1.0) if read.resize[0] > size[0] else 1.0
        )  # rounds down to it again
    elif read.mode == "squash" and read.crop not in (None, pair(_one(read.resize))):
        raise _unknown("CenterCrop after squashing")
    cfg = PreprocessCfg(
        size=size,
        mean=tuple(float(value) for value in read.mean),
        std=tuple(float(value) for value in read.std),
        interpolation=read.interpolation,
        resize_mode=read.mode,
        fill_color=read.fill,
    )
    return Preprocess(cfg, crop, lambda image: _tensor(transform(image)))


def _tensor(output: Any) -> Tensor:
    if not isinstance(output, Tensor) or output.ndim != 3 or output.shape[0] != 3 or not output.is_floating_point():
        raise InputError("the preprocessing must give a normalised tensor [3, H, W]: is ToTensor or Normalize missing?")
    return output


def _of_processor(processor: Any) -> Preprocess:
    """An image processor of Hugging Face: its own settings, and itself as what runs."""
    size, kernel = dict(processor.size or {}), _kernel(processor.resample)
    read = _Read(interpolation=kernel, mean=processor.image_mean, std=processor.image_std)
    if "max_num_patches" in vars(processor) or hasattr(processor, "max_num_patches"):
        return _of_any_size(processor, kernel)
    if not processor.do_resize:
        raise InputError("the processor does not resize: its images are of no one size")
    if "shortest_edge" in size:
        read.resize, read.mode = (int(size["shortest_edge"]),), "shortest"
    elif "height" in size:
        read.resize, read.mode = (int(size["height"]), int(size["width"])), "squash"
    else:
        raise InputError(f"the processor's size {size} is not known; known are shortest_edge, and height with width")
    if getattr(processor, "do_center_crop", False):
        crop = processor.crop_size
        read.crop = (int(crop["height"]), int(crop["width"])) if isinstance(crop["height"], int) else None
    return _settled(
        read, lambda image: torch.as_tensor(processor(images=image, return_tensors="pt")["pixel_values"][0])
    )


def _of_any_size(processor: Any, kernel: str) -> Preprocess:
    """SigLIP 2 of any size: each image is squeezed into as many patches as its aspect and the limit allow."""
    from transformers.models.siglip2.image_processing_siglip2 import get_image_size_for_max_num_patches

    side, most = int(processor.patch_size), int(processor.max_num_patches)
    square = max(int(most**0.5), 1) * side
    cfg = PreprocessCfg(
        size=(square, square),
        mean=tuple(processor.image_mean),
        std=tuple(processor.image_std),
        interpolation=kernel,
        resize_mode="squash",
    )
    return Preprocess(cfg, fit=lambda shape: get_image_size_for_max_num_patches(*shape, side, most))


def _check(preprocess: Preprocess) -> None:
    """Raises InputError where a transform does not do what its steps say."""
    for shape in _PROBES:
        size, squeeze = preprocess.input_size(None, shape, (1, 1))
        try:
            pixels, geometry = preprocess(_drawn(shape), size, squeeze=squeeze)
        except InputError:
            raise
        except Exception as error:  # the user's own code
            raise InputError(f"the preprocessing fails on an RGB image: {error}") from error
        if tuple(pixels.shape) != (3, *geometry.size):
            raise InputError(
                f"the preprocessing gives {list(pixels.shape)}, not {[3, *geometry.size]} as its steps say"
            )
        mean, std = (torch.tensor(values)[:, None, None] for values in (preprocess.cfg.mean, preprocess.cfg.std))
        colours = (pixels * std + mean).numpy()
        y, x = (
            (geometry.offset[axis] + np.arange(geometry.size[axis]) + 0.5) / geometry.resized[axis] for axis in (0, 1)
        )
        rows, columns = ((values > 0.06) & (values < 0.94) for values in (y, x))  # kernels reach over the edges
        expected = np.broadcast_to(x, geometry.size), np.broadcast_to(y[:, None], geometry.size)
        for channel, values in enumerate(expected):
            difference = np.abs(colours[channel] - values)[rows][:, columns]
            if difference.size and difference.max() > _TOLERANCE:
                raise InputError(
                    "the preprocessing does something besides what its steps say (pixels or colours come from "
                    "elsewhere): give the transform for evaluation that the model was made with"
                )


def _drawn(shape: tuple[int, int]) -> Image.Image:
    """An image whose red says x and whose green says y, 0..1 from edge to edge."""
    height, width = shape
    y, x = np.mgrid[:height, :width]
    channels = (x + 0.5) / width, (y + 0.5) / height, np.full(shape, 0.3)
    return Image.fromarray((np.stack(channels, 2) * 255).round().astype(np.uint8))


def _sides(size: Any) -> tuple[int, ...]:
    return (int(size),) if isinstance(size, int) else tuple(int(side) for side in size)


def _one(size: Any) -> Any:
    sides = _sides(size)
    return sides[0] if len(sides) == 1 else sides


def _kernel(interpolation: Any) -> str:
    """The name of a resampling kernel, of torchvision's enum, Pillow's or its number."""
    name = str(getattr(interpolation, "value", interpolation)).lower()
    known = {"bilinear": "bilinear", "bicubic": "bicubic", "2": "bilinear", "3": "bicubic"}
    if name not in known:
        raise InputError(f"the preprocessing resizes by '{name}'; known are bilinear and bicubic")
    return known[name]
