"""Loading: names, tags and files to a model with its tokenizer and preprocessing. open_clip does the loading."""

from __future__ import annotations

import difflib
import logging
import os
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn

from finercam_clip.classes import Classes
from finercam_clip.errors import InputError
from finercam_clip.families import FAMILIES, family_of_config, unsupported
from finercam_clip.images import Geometry, geometry_of, pair
from finercam_clip.prompts import Tokenizer

BUNDLED = "aviary"
BUNDLED_FOLDER = Path(__file__).parent / "aviary" / "weights"
PRECISIONS = ("fp32", "fp16", "bf16")


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A CLIP model, or a classifier, ready to use.

    name, pretrained: where it came from; model: open_clip's CLIP, frozen (of a classifier: `classifiers.Classifier`);
    preprocess_cfg: open_clip's settings of its preprocessing; known_tokens: bool [vocabulary], which rows of the token
    table were ever trained, or None if all were; dtype: of the pixels that the image tower takes; classes: what a
    classifier has in place of texts, None for CLIP; crop: how much of the resized image's shorter side the model's own
    preprocessing keeps (timm's crop_pct); present_above: the cosine that texts true of an image nearly always reach, of
    weights that say so in their file (safetensors metadata, as the bundled model's), else None.
    """

    name: str
    pretrained: str
    model: Any
    preprocess_cfg: PreprocessCfg
    tokenizer: Tokenizer | None
    known_tokens: Tensor | None
    device: torch.device
    dtype: torch.dtype = torch.float32
    classes: Classes | None = None
    crop: float = 1.0
    present_above: float | None = None

    def preprocess(self, image: Image.Image, size: tuple[int, int] | None = None, *, squeeze: bool = False) -> Tensor:
        """An RGB image as the model's input, [3, H, W]: of its own or another size, cropped or squeezed into it."""
        cfg = self.preprocess_cfg
        if self.crop < 1 and size in (None, pair(cfg.size)) and not squeeze:
            own = geometry_of((image.height, image.width), pair(cfg.size), "shortest", self.crop)
            image = _cropped(image, own, cfg.interpolation)
        cfg = replace(cfg, size=size or cfg.size, resize_mode="squash" if squeeze else cfg.resize_mode)
        pixels: Tensor = image_transform_v2(cfg, is_train=False)(image)
        return pixels


def _cropped(image: Image.Image, geometry: Geometry, interpolation: str) -> Image.Image:
    """The middle of the resized image, at the size of the model's input: resizing once, as the model's own does."""
    height, width = geometry.resized
    kind = Image.Resampling.BILINEAR if interpolation == "bilinear" else Image.Resampling.BICUBIC
    (y, x), (h, w) = geometry.offset, geometry.size
    return image.resize((width, height), kind).crop((x, y, x + w, y + h))


def load_model(
    name: str | None = None, pretrained: str | None = None, device: str | None = None, precision: str = "fp32"
) -> LoadedModel:
    """Loads the bundled model (no name), an architecture of open_clip with a pretrained tag or a checkpoint file, or
    "hf-hub:org/repo". pretrained="random" gives untrained weights, with a warning.

    device: "cuda", "cpu", "mps", ...; by default CUDA where there is one, else the CPU. precision: fp32, fp16 or bf16.

    Raises:
        InputError: the name, tag, file, device or precision cannot be used; says which can.
    """
    if precision not in PRECISIONS:
        raise InputError(f"there is no precision '{precision}'; there are {', '.join(PRECISIONS)}")
    place = device_named(device)
    if name is None or name == BUNDLED:
        if pretrained is not None:
            raise InputError("the bundled model has its own weights; name an architecture to go with --pretrained")
        source, tag = f"local-dir:{BUNDLED_FOLDER}", None
    elif name.startswith(("hf-hub:", "local-dir:")):
        if pretrained is not None:
            raise InputError(f"{name} brings its own weights; leave pretrained out")
        source, tag = name, None
    else:
        source, tag = name, check_pretrained(name, pretrained)
        check_family(name)
    if tag == "random":
        warnings.warn(f"{name} with RANDOM weights: its heatmaps mean nothing; for tests and benchmarks", stacklevel=3)
    with loading_errors(name or BUNDLED, tag), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # "random" is the same every time
        model = open_clip.create_model(
            source,
            pretrained=None if tag == "random" else tag,
            device=place,
            precision=precision,
            require_pretrained=tag != "random",  # otherwise open_clip falls back to random weights, and only logs it
        )
        tokenizer = open_clip.get_tokenizer(source)
    preprocess_cfg = PreprocessCfg(**open_clip.get_model_preprocess_cfg(model))
    model.eval().requires_grad_(False)
    table = _token_table(model)
    known = (table != 0).any(1) if table is not None else None
    return LoadedModel(
        name=name or BUNDLED,
        pretrained=tag or "bundled" if source.endswith(str(BUNDLED_FOLDER)) else tag or name or "",
        model=model,
        preprocess_cfg=preprocess_cfg,
        tokenizer=tokenizer,
        known_tokens=None if known is None or bool(known.all()) else known,
        device=place,
        dtype=open_clip.get_input_dtype(precision) or torch.float32,
        present_above=_present_above(source, tag),
    )


def _present_above(source: str, tag: str | None) -> float | None:
    folder, file = source.removeprefix("local-dir:"), Path(tag or "")
    path = Path(folder) / "open_clip_model.safetensors" if folder != source else file
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    with safe_open(path, framework="pt") as held:
        said = (held.metadata() or {}).get("present_above")
    return None if said is None else float(said)


@dataclass(frozen=True)
class Listed:
    """A model that can be named: its family (None: not supported yet) and the weights it can be had with."""

    name: str
    family: str | None
    weights: tuple[str, ...]


def list_models() -> list[Listed]:
    """The bundled model and every architecture of open_clip, in its order."""
    listed = [Listed(BUNDLED, family_of_config(_vision_config(f"local-dir:{BUNDLED_FOLDER}")), ("bundled",))]
    for name in open_clip.list_models():
        tags = tuple(open_clip.list_pretrained_tags_by_model(name))
        listed.append(Listed(name, family_of_config(_vision_config(name)), tags))
    return listed


def families_table() -> str:
    """The table of families in Markdown, with how many of open_clip's architectures each has."""
    found = [row.family for row in list_models() if row.name != BUNDLED]
    lines = ["| family | architectures | towers | target layer | pooling |", "|---|---:|---|---|---|"]
    for family in FAMILIES:
        count = found.count(family.name)
        lines.append(f"| `{family.name}` | {count} | {family.towers} | {family.layer} | {family.pooling} |")
    return "\n".join(lines)


def check_family(name: str) -> None:
    """Raises InputError for an architecture whose image tower is of no family, before anything is built."""
    config = _vision_config(name)
    if family_of_config(config) is None:
        kind = config.get("timm_model_name", "ModifiedResNet")
        raise unsupported(f"{name} (image tower {kind})")


def _vision_config(name: str) -> dict[str, Any]:
    return dict(open_clip.get_model_config(name)["vision_cfg"])


def check_pretrained(name: str, pretrained: str | None) -> str:
    """The tag or checkpoint file, checked against what open_clip knows of `name`."""
    if name not in open_clip.list_models():
        close = difflib.get_close_matches(name, open_clip.list_models(), n=4, cutoff=0.5)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise InputError(f"open_clip has no architecture '{name}'{hint} (finercam-clip models lists them)")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained is None:
        options = ", ".join(tags) if tags else "none are published"
        raise InputError(f"{name} needs weights: its pretrained tags are {options}; or a checkpoint file, or 'random'")
    if pretrained == "random" or pretrained in tags:
        return pretrained
    if os.path.isfile(pretrained):  # noqa: PTH113 - False, not an OSError, for a name that no file can have
        return pretrained
    if Path(pretrained).suffix or "/" in pretrained:
        raise InputError(f"{pretrained}: no such checkpoint file")
    raise InputError(
        f"{name} has no pretrained tag '{pretrained}'; it has {', '.join(tags) or 'none'}; or a checkpoint file"
    )


def device_named(device: str | None) -> torch.device:
    """Raises InputError for a device that is not here. None: CUDA where there is one, else the CPU."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"the device '{device}' cannot be used here ({reason}); leave it out to use what there is"
        ) from error
    return place


def _token_table(model: nn.Module) -> Tensor | None:
    for owner in (model, getattr(model, "text", None)):
        table = getattr(owner, "token_embedding", None)
        if isinstance(table, nn.Embedding):
            return table.weight
    return None


@contextmanager
def loading_errors(name: str, tag: str | None) -> Iterator[None]:
    """open_clip's own log lines held back, and its many exceptions turned into one line."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{tag} is not a plain checkpoint: it holds code or objects, which are never executed"
        ) from error
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if any(sign in str(error) for sign in ("size mismatch", "Missing key", "Unexpected key", "width changed")):
            raise InputError(f"the checkpoint {tag} does not fit {name}: it is of another architecture") from error
        if tag and os.path.isfile(tag):  # noqa: PTH113
            raise InputError(f"{tag} cannot be read as a checkpoint: {reason[:200]}") from error
        weights = f"{name} ({tag})" if tag else name
        if "transformers" in reason:
            raise InputError(
                f"{weights}: its text tower or tokenizer is from the Hugging Face hub: pip install 'finercam_clip[hf]'"
            ) from error
        if "download" in reason.lower() or "connect" in reason.lower():
            raise InputError(
                f"the weights of {weights} could not be downloaded: check the name and the connection, or give a local "
                "checkpoint file as pretrained"
            ) from error
        raise InputError(f"{weights} could not be loaded: {reason[:300]}") from error
    finally:
        logging.disable(level)
