"""The straight path from image and text to heatmap: load -> encode -> explain. Read it top to bottom.

image ── preprocess ── image tower, cut at the target layer ──► ImageEncoding (A, grid, f, J)
texts ── templates ── tokenize ── text tower ──► T ── objective ──► direction d
ImageEncoding x d ── method ──► signed map [h, w] ──► Explanation
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finercam_clip import objectives, prompts
from finercam_clip.errors import InputError
from finercam_clip.explanation import Explanation
from finercam_clip.families import POOLINGS, Family, family_of
from finercam_clip.images import Geometry, ImageInput, geometry_of, read_image
from finercam_clip.methods import method_named
from finercam_clip.models import LoadedModel, load_model
from finercam_clip.options import Options
from finercam_clip.prompts import Concept, Text
from finercam_clip.tails import Tail, unit_norm

_BATCH = 32  # images a forward pass
_TEXT_BATCH = 256
_DIRECTIONS = 64  # pulled back at a time: more are no faster and need more memory


def load(
    name: str | None = None, pretrained: str | None = None, *, device: str | None = None, precision: str = "fp32"
) -> Explainer:
    """Loads a CLIP model and wraps it in an `Explainer`.

    name: an architecture of open_clip ("ViT-B-16"), "hf-hub:org/repo", or nothing for the bundled model, which needs
        no download and knows only its own world of drawn birds.
    pretrained: a tag of that architecture ("openai"), a local checkpoint file, or "random" for untrained weights.
    device: "cuda", "cpu", "mps"; by default CUDA where there is one, else the CPU.
    precision: "fp32" (the reference), "fp16" or "bf16".

    Raises:
        InputError: something of these cannot be used; the message says what can.
    """
    return Explainer(load_model(name, pretrained, device, precision))


@dataclass(frozen=True, eq=False)
class Explainer:
    """A CLIP model that answers where an image says one concept and not others. Holds no state besides the model."""

    loaded: LoadedModel

    @cached_property
    def family(self) -> Family:
        return family_of(self.loaded.model.visual)

    def __post_init__(self) -> None:
        _ = self.family  # an unsupported tower is an error on loading, not at the first image

    @property
    def scale(self) -> float:
        """The model's logit scale: similarities are this times cosines (about 100 for CLIP)."""
        return float(self.loaded.model.logit_scale.detach().exp())

    def explain(
        self, image: ImageInput, target: Text, contrasts: Sequence[Text] | int = (), **changes: Any
    ) -> Explanation:
        """Where `image` says `target` and not `contrasts`. See `ImageEncoding.explain` for the arguments.

        image: a path, a PIL image, or a uint8 array [H, W, 3] (RGB). `changes`: any field of `Options`.
        """
        options = _changed(Options(), changes)
        self._question(target, contrasts, options)  # a wrong question is an error before the image costs anything
        return self.encode(image, pooling=options.pooling).explain(target, contrasts, **changes)

    @overload
    def encode(self, images: ImageInput, *, pooling: str = ...) -> ImageEncoding: ...  # type: ignore[overload-overlap]
    @overload
    def encode(self, images: Sequence[ImageInput], *, pooling: str = ...) -> list[ImageEncoding]: ...
    def encode(
        self, images: ImageInput | Sequence[ImageInput], *, pooling: str = Options.pooling
    ) -> ImageEncoding | list[ImageEncoding]:
        """One forward pass an image; a list of images gives a list, computed in batches.

        pooling: "model", as the tower pools, or "mean", the mean of the patch tokens (CLIP-ES).
        """
        if pooling not in POOLINGS:
            raise InputError(f"there is no pooling '{pooling}'; there are {', '.join(POOLINGS)}")
        if isinstance(images, (list, tuple)):
            encodings: list[ImageEncoding] = []
            for start in range(0, len(images), _BATCH):
                encodings += self._encode_batch(images[start : start + _BATCH], pooling)
            return encodings
        return self._encode_batch([images], pooling)[0]  # type: ignore[list-item]

    def embed(self, texts: Sequence[Text], templates: Any = None) -> Tensor:
        """Unit-norm text embeddings, float32 [K, D], one a concept: in each template, averaged over its texts.

        Raises:
            InputError: a text is empty, too long for the model, or of words it does not know.
        """
        return self._embed([prompts.concept(text, "text") for text in texts], prompts.templates_of(templates))

    @torch.no_grad()
    def _embed(self, concepts: Sequence[Concept], templates: Sequence[str]) -> Tensor:
        written = [concept.written_as(templates).texts for concept in concepts]
        tokens = prompts.tokenize(
            [text for texts in written for text in texts], self.loaded.tokenizer, self.loaded.known_tokens
        )
        encoded = torch.cat(
            [
                unit_norm(self.loaded.model.encode_text(chunk.to(self.loaded.device)))
                for chunk in torch.split(tokens, _TEXT_BATCH)
            ]
        )
        parts = torch.split(encoded, [len(texts) for texts in written])
        return unit_norm(torch.stack([part.mean(0) for part in parts]))

    def _question(
        self, target: Text, contrasts: Sequence[Text] | int, options: Options
    ) -> tuple[list[Concept], list[str]]:
        """The checked concepts, target first, and the templates. A number of contrasts is taken from the vocabulary."""
        wanted = prompts.concept(target, "target")
        templates = prompts.templates_of(options.templates)
        if isinstance(contrasts, int):
            others = self._nearest(wanted, contrasts, options, templates)
        elif isinstance(contrasts, str):
            others = [prompts.concept(contrasts, "contrast")]
        else:
            others = [prompts.concept(contrast, "contrast") for contrast in contrasts]
        prompts.check_question(wanted, others)
        return [wanted, *others], templates

    def _nearest(self, target: Concept, count: int, options: Options, templates: Sequence[str]) -> list[Concept]:
        if options.vocabulary is None:
            raise InputError(f"contrasts={count} takes the nearest concepts of a vocabulary: give one (vocabulary=...)")
        entries = dict.fromkeys(prompts.vocabulary_of(options.vocabulary))
        others = [prompts.concept(entry, "vocabulary entry") for entry in entries]
        others = [other for other in others if other.label.lower() != target.label.lower()]
        if not 1 <= count <= len(others):
            raise InputError(f"contrasts={count}: the vocabulary has {len(others)} concepts besides the target")
        near = self._embed(others, templates) @ self._embed([target], templates)[0]
        return [others[int(i)] for i in near.topk(count).indices]

    def _encode_batch(self, images: Sequence[ImageInput], pooling: str) -> list[ImageEncoding]:
        pictures = [read_image(image) for image in images]
        pixels = torch.stack([self.loaded.preprocess(picture) for picture in pictures])
        visual = self.loaded.model.visual
        tails = self.family.encode(visual, pixels.to(self.loaded.device, self.loaded.dtype), pooling)
        size = (pixels.shape[2], pixels.shape[3])
        mode = self.loaded.preprocess_cfg.get("resize_mode", "shortest")
        return [
            ImageEncoding(
                explainer=self,
                image=np.asarray(picture),
                geometry=geometry_of((picture.height, picture.width), size, mode),
                grid=self.family.grid(visual, size),
                tail=tail,
            )
            for picture, tail in zip(pictures, tails, strict=True)
        ]


@dataclass(frozen=True, eq=False)
class ImageEncoding:
    """An image after one forward pass: every further question is a matrix product.

    image: uint8 [H, W, 3]; geometry: from the grid back to its pixels; grid: (h, w) of the patches; tail: activations A
    [h * w, C], embedding f [D] and its Jacobian.
    """

    explainer: Explainer
    image: NDArray[np.uint8]
    geometry: Geometry
    grid: tuple[int, int]
    tail: Tail

    def explain(self, target: Text, contrasts: Sequence[Text] | int = (), **changes: Any) -> Explanation:
        """Where the image says `target` and not `contrasts`.

        target: a text, or several: an ensemble of prompts for one concept.
        contrasts: texts (each may be an ensemble), or a number n: the n concepts of `vocabulary` nearest to the target.
        changes: fields of `Options`, e.g. gamma=0.8, method="hirescam", objective="similarity".

        Raises:
            InputError: a text, a name or a number cannot be used; the message says what can.
        """
        options = _changed(Options(), changes)
        concepts, templates = self.explainer._question(target, contrasts, options)
        texts = self.explainer._embed(concepts, templates)
        scale = self.explainer.scale
        finer = self._directions(texts[:1], texts[1:], options)
        alone = scale * texts  # each concept by itself: the target, and the contrasts together as the question has them
        # Always three directions: products of one shape round alike, so that gamma 0 is the plain map to the last bit.
        others = alone[1:].mean(0, keepdim=True) if len(texts) > 1 else torch.zeros_like(alone)
        maps = self.maps(torch.cat([finer, alone[:1], others]), options.method)
        cosines = texts @ self.tail.embedding
        probabilities = (scale * cosines).softmax(0)
        labels = [concept.label for concept in concepts]
        loaded = self.explainer.loaded
        return Explanation(
            image=self.image,
            geometry=self.geometry,
            grid=maps[0],
            target=labels[0],
            contrasts=tuple(labels[1:]),
            target_grid=maps[1],
            contrast_grid=maps[2] if len(texts) > 1 else None,
            similarities=dict(zip(labels, cosines.tolist(), strict=True)),
            probabilities=dict(zip(labels, probabilities.tolist(), strict=True)),
            options=options,
            model=loaded.name,
            pretrained=loaded.pretrained,
        )

    def heatmaps(
        self, targets: Sequence[Text] | Tensor, contrasts: Sequence[Text] | Tensor = (), **changes: Any
    ) -> NDArray[np.float32]:
        """The signed maps of many questions at once, float32 [K, h, w]: the `grid` of each one's `Explanation`.

        targets: K texts, or their embeddings [K, D] from `Explainer.embed`; contrasts: the same for every question.
        Before ReLU and scaling, so that they can be compared with each other.
        """
        options = _changed(Options(), changes)
        wanted, others = (
            given.float() if isinstance(given, Tensor) else self._embedded(given, options)
            for given in (targets, contrasts)
        )
        return self.maps(self._directions(wanted, others, options), options.method)

    def maps(self, directions: Tensor, method: str) -> NDArray[np.float32]:
        """The method's signed maps, float32 [K, h, w], of directions in embedding space [K, D].

        Both ways give the same: few directions are pulled back one by one; for many, the map of every axis of embedding
        space is computed once and the rest is a matrix product.
        """
        if not len(directions):
            return np.zeros((0, *self.grid), np.float32)
        if len(directions) < directions.shape[1]:
            maps = self._pulled_back(directions, method)
        else:
            maps = directions @ self._axis_maps(method)
        return maps.reshape(-1, *self.grid).cpu().numpy()

    def _pulled_back(self, directions: Tensor, method: str) -> Tensor:
        chunks = torch.split(directions, _DIRECTIONS)
        return torch.cat([method_named(method)(self.tail, chunk).detach() for chunk in chunks])

    def _axis_maps(self, method: str) -> Tensor:
        if method not in self._axis_maps_of:
            axes = torch.eye(len(self.tail.embedding), device=self.tail.embedding.device)
            self._axis_maps_of[method] = self._pulled_back(axes, method)
        return self._axis_maps_of[method]

    @cached_property
    def _axis_maps_of(self) -> dict[str, Tensor]:
        """P^T [D, N] a method (DESIGN: dense features), filled when first asked for."""
        return {}

    def _directions(self, targets: Tensor, contrasts: Tensor, options: Options) -> Tensor:
        return objectives.directions(
            objectives.objective_named(options.objective),
            targets,
            contrasts,
            self.tail.embedding,
            scale=self.explainer.scale,
            gamma=options.gamma,
        )

    def _embedded(self, texts: Sequence[Text], options: Options) -> Tensor:
        if not len(texts):
            return self.tail.embedding.new_zeros(0, len(self.tail.embedding))
        return self.explainer.embed(texts, options.templates)


def _changed(options: Options, changes: dict[str, Any]) -> Options:
    """The options with some replaced, checked."""
    allowed = list(Options.__dataclass_fields__)
    for name in changes:
        if name not in allowed:
            raise InputError(f"there is no option '{name}'; there are {', '.join(allowed)}")
    return check_options(replace(options, **changes))


def check_options(options: Options) -> Options:
    """The options as they are.

    Raises:
        InputError: a name is not in its table, or gamma is not a number from 0 up.
    """
    if not (isinstance(options.gamma, (int, float)) and math.isfinite(options.gamma) and options.gamma >= 0):
        raise InputError(f"gamma is a number from 0 (the plain method) up, as 0.6; not {options.gamma!r}")
    method_named(options.method)
    objectives.objective_named(options.objective)
    if options.pooling not in POOLINGS:
        raise InputError(f"there is no pooling '{options.pooling}'; there are {', '.join(POOLINGS)}")
    return options


__all__ = ["Explainer", "ImageEncoding", "Options", "load"]
