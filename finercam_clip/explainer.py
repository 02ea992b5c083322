"""The straight path from image and text to heatmap: load -> encode -> explain. Read it top to bottom.

image ── preprocess ── image tower, cut at the target layer ──► ImageEncoding (A, grid, f, J)
texts ── templates ── tokenize ── text tower ──► T ── objective ──► direction d
ImageEncoding x d ── method ──► signed map [h, w] ──► Explanation
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finercam_clip import objectives, prompts
from finercam_clip.batches import in_batches
from finercam_clip.classes import Classes
from finercam_clip.errors import InputError
from finercam_clip.explanation import Explanation
from finercam_clip.families import POOLINGS, Family, family_of, tails_at, uncompiled
from finercam_clip.images import Geometry, ImageInput, ImageSize, geometry_of, input_size, pair, read_image
from finercam_clip.methods import method_named
from finercam_clip.models import LoadedModel, load_model
from finercam_clip.options import PRESETS, SIMILAR_BY, Options
from finercam_clip.prompts import Concept, Text
from finercam_clip.refine import affinity, check_refinement
from finercam_clip.tails import Tail, unit_norm

_BATCH = 32  # images a forward pass
_TEXT_BATCH = 256
_DIRECTIONS = 64  # pulled back at a time: more are no faster and need more memory
_SETTLED = ("pooling", "image_size", "layer")  # options of encoding, not of a question

Layer = int | str | tuple[int | str, ...] | None
Found = TypeVar("Found")


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
class Question:
    """A checked question with its directions.

    concepts: the target, the contrasts, the background; texts: theirs [1 + M, D]; count: None, or how many of the
    contrasts are to be chosen for each image; background: how many of the concepts are scenery, which always stays.
    """

    concepts: tuple[Concept, ...]
    texts: Tensor
    count: int | None = None
    background: int = 0


@dataclass(frozen=True, eq=False)
class Explainer:
    """A CLIP model that answers where an image says one concept and not others. Holds no state besides the model.

    Or a classifier (`finercam_clip.load_classifier`): the same, with names of its classes in place of texts.
    """

    loaded: LoadedModel

    @cached_property
    def family(self) -> Family:
        return family_of(self.loaded.model.visual)

    @cached_property
    def shift(self) -> tuple[float, float]:
        """See `Family.shift`."""
        return self.family.shift(self.loaded.model.visual)

    def __post_init__(self) -> None:
        _ = self.family  # an unsupported tower is an error on loading, not at the first image

    @property
    def own_size(self) -> tuple[int, int]:
        """(height, width) of the model's own input."""
        return pair(self.loaded.preprocess_cfg.size)

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
        options = spelt_out(changes)
        if isinstance(image, (list, tuple)):
            raise InputError("explain takes one image; explain_batch takes a list of them, and a list of questions")
        self._question(target, contrasts, options)  # a wrong question is an error before the image costs anything
        encoding = self.encode(image, **_settled(options))
        return encoding.explain(target, contrasts, **changes)

    def explain_batch(
        self,
        images: Sequence[ImageInput],
        questions: Sequence[tuple[Text, Sequence[Text] | int]],
        **changes: Any,
    ) -> list[list[Explanation]]:
        """Every question about every image: a list an image, of one `Explanation` a question.

        questions: (target, contrasts) as `explain` takes them; each text is embedded once, whatever the images.

        Raises:
            InputError: an image or a question cannot be used, or these are not lists of them.
        """
        options = spelt_out(changes)
        if not isinstance(images, (list, tuple)):
            raise InputError(f"explain_batch takes a list of images, not {type(images).__name__}")
        if isinstance(questions, str) or any(isinstance(one, str) or len(one) != 2 for one in questions):
            raise InputError('questions is a list of (target, contrasts), as [("a red crown", ["a blue crown"])]')
        asked = [self._embedded_question(target, contrasts, options) for target, contrasts in questions]
        encodings: list[ImageEncoding] = self.encode(list(images), **_settled(options))
        return [[encoding._answer(question, options) for question in asked] for encoding in encodings]

    @overload
    def encode(  # type: ignore[overload-overlap]
        self, images: ImageInput, *, pooling: str = ..., image_size: ImageSize = ..., layer: Layer = ...
    ) -> ImageEncoding: ...
    @overload
    def encode(
        self, images: Sequence[ImageInput], *, pooling: str = ..., image_size: ImageSize = ..., layer: Layer = ...
    ) -> list[ImageEncoding]: ...
    def encode(
        self,
        images: ImageInput | Sequence[ImageInput],
        *,
        pooling: str = Options.pooling,
        image_size: ImageSize = Options.image_size,
        layer: Layer = Options.layer,
    ) -> ImageEncoding | list[ImageEncoding]:
        """One forward pass an image; a list of images gives a list, computed in batches.

        pooling: "model", as the tower pools; "mean", the mean of the patch tokens (CLIP-ES); "token", the class token.
        image_size: of the model's input: None, its own; a number; (height, width); "native", the image's own.
        layer: target layer: None, the family's own; an index (-1 is the last); a module's name; or several.

        Raises:
            InputError: an image cannot be read, or the model cannot do it this way.
        """
        if pooling not in POOLINGS:
            raise InputError(f"there is no pooling '{pooling}'; there are {', '.join(POOLINGS)}")
        if not isinstance(images, (list, tuple)):
            return self._encode_batch([images], pooling, image_size, layer)[0]  # type: ignore[list-item]
        return in_batches(lambda chunk: self._encode_batch(chunk, pooling, image_size, layer), images, _BATCH)

    def embed(self, texts: Sequence[Text], templates: Any = None) -> Tensor:
        """Unit-norm text embeddings, float32 [K, D], one a concept: in each template, averaged over its texts.

        Of a classifier: the rows of its head, [K, D + 1], weights and bias (`Classes.rows`).

        Raises:
            InputError: a text is empty, too long for the model, or of words it does not know; or no such class.
        """
        return self._embed([self._concept(text, "text") for text in texts], self._templates(templates))

    @torch.no_grad()
    def _embed(self, concepts: Sequence[Concept], templates: Sequence[str]) -> Tensor:
        if self.loaded.tokenizer is None:
            return self._classes.directions(concepts)
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
    ) -> tuple[list[Concept], list[str], int]:
        """Checked: the concepts, target first, the templates, and how many of the concepts are scenery. Of a number of
        contrasts: all that they are chosen from."""
        wanted = self._concept(target, "target")
        templates = self._templates(options.templates)
        if isinstance(contrasts, int):
            others = self._candidates(wanted, contrasts, options)
        elif isinstance(contrasts, str):
            others = [self._concept(contrasts, "contrast")]
        else:
            others = [self._concept(contrast, "contrast") for contrast in contrasts]
        prompts.check_question(wanted, others)
        scenery = self._background(options.background, [wanted, *others])
        return [wanted, *others, *scenery], templates, len(scenery)

    def _embedded_question(self, target: Text, contrasts: Sequence[Text] | int, options: Options) -> Question:
        concepts, templates, scenery = self._question(target, contrasts, options)
        count = contrasts if isinstance(contrasts, int) else None
        return Question(tuple(concepts), self._embed(concepts, templates), count, scenery)

    def _background(self, source: Any, besides: Sequence[Concept]) -> list[Concept]:
        if source is None:
            return []
        if self.loaded.tokenizer is None:
            raise InputError("background is of texts; a classifier knows its classes only: leave it out")
        known, taken = self.loaded.known_tokens, {concept.label.lower() for concept in besides}
        entries = [entry for entry in dict.fromkeys(prompts.vocabulary_of(source)) if entry.lower() not in taken]
        if known is not None:
            entries = [entry for entry in entries if prompts.all_known(entry, self.loaded.tokenizer, known)]
        return [prompts.concept(entry, "background entry") for entry in entries]

    def _candidates(self, target: Concept, count: int, options: Options) -> list[Concept]:
        """What contrasts=count is chosen from: the vocabulary, or all classes, but for the target."""
        classes = self.loaded.classes
        if options.vocabulary is not None:
            entries = prompts.vocabulary_of(options.vocabulary)
        elif classes is not None:
            entries = list(classes.names)
        else:
            raise InputError(f"contrasts={count} takes the nearest concepts of a vocabulary: give one (vocabulary=...)")
        found = [self._concept(entry, "vocabulary entry") for entry in entries]
        own = {target.label.lower(), *(() if classes is None else (text.lower() for text in target.texts))}
        others = list({other.label.lower(): other for other in found if other.label.lower() not in own}.values())
        if not 1 <= count <= len(others):
            raise InputError(f"contrasts={count}: the vocabulary has {len(others)} concepts besides the target")
        return others

    def _concept(self, text: Text, role: str) -> Concept:
        """A text as it is, or for a classifier the class that it names."""
        concept = prompts.concept(text, role)
        return concept if self.loaded.classes is None else self.loaded.classes.concept(concept)

    def _templates(self, templates: Any) -> list[str]:
        if templates is not None and self.loaded.classes is not None:
            raise InputError("templates are for texts; a classifier's classes are named as they are: leave them out")
        return prompts.templates_of(templates)

    @property
    def _classes(self) -> Classes:
        if self.loaded.classes is None:
            raise InputError(f"{self.loaded.name} is no classifier: it has no classes; ask it about texts")
        return self.loaded.classes

    def _encode_batch(
        self, images: Sequence[ImageInput], pooling: str, image_size: ImageSize, layer: Layer
    ) -> list[ImageEncoding]:
        pictures = [read_image(image) for image in images]
        own, visual = self.own_size, self.loaded.model.visual
        sizes = [input_size(image_size, own, (p.height, p.width), self.family.stride(visual)) for p in pictures]
        encodings: dict[int, ImageEncoding] = {}
        for size, squeeze in dict.fromkeys(sizes):  # images of one size go through the tower together
            chosen = [i for i, wanted in enumerate(sizes) if wanted == (size, squeeze)]
            pixels = torch.stack([self.loaded.preprocess(pictures[i], size, squeeze=squeeze) for i in chosen])
            pixels = pixels.to(self.loaded.device, self.loaded.dtype)
            with uncompiled(), nullcontext() if size == own else self.family.sized(visual, size):
                tails = self._tails(pixels, pooling, layer)
            grid, stride = self._grid(tails, size)
            mode = "squash" if squeeze else self.loaded.preprocess_cfg.resize_mode
            crop = self.loaded.crop if size == own else 1.0
            for n, i in enumerate(chosen):
                geometry = geometry_of((pictures[i].height, pictures[i].width), size, mode, crop)
                encodings[i] = ImageEncoding(
                    explainer=self,
                    image=np.asarray(pictures[i]),
                    geometry=replace(geometry, stride=stride, shift=self.shift),
                    grid=grid,
                    pixels=pixels[n : n + 1],
                    tails=tuple(of_layer[n] for of_layer in tails),
                    pooling=pooling,
                    image_size=image_size,
                    layer=layer,
                )
        return [encodings[i] for i in range(len(pictures))]

    def _tails(self, pixels: Tensor, pooling: str, layer: Layer) -> list[list[Tail]]:
        """The tails of every image, a list a target layer."""
        family, visual = self.family, self.loaded.model.visual
        if layer is None:
            return [family.encode(visual, pixels, pooling)]
        modules = [family.layer_named(visual, one) for one in (layer if isinstance(layer, tuple) else (layer,))]
        return [tails_at(family, visual, pixels, pooling, module) for module in modules]

    def _grid(self, tails: list[list[Tail]], size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """The (h, w) of the target layers and the (height, width) of a cell: earlier stages have a finer grid."""
        visual = self.loaded.model.visual
        grid, stride = self.family.grid(visual, size), self.family.stride(visual)
        cells = {len(of_layer[0].activations) for of_layer in tails}
        if len(cells) > 1:
            raise InputError("these layers have grids of different sizes: give layers of one stage")
        (count,) = cells
        if count != grid[0] * grid[1]:
            side = round(math.sqrt(size[0] * size[1] / count))
            grid, stride = (size[0] // side, size[1] // side), (side, side)
            if grid[0] * grid[1] != count or self.shift != (0.0, 0.0):
                raise InputError("where the cells of this layer lie on the image is not known for this tower")
        return grid, stride


@dataclass(frozen=True, eq=False)
class ImageEncoding:
    """An image after one forward pass: every further question is a matrix product.

    image: uint8 [H, W, 3]; geometry: from the grid back to its pixels; grid: (h, w) of the patches; pixels: what the
    tower saw, [1, 3, H', W']; tails: activations A [h * w, C], embedding f [D] and its Jacobian, one a target layer.
    """

    explainer: Explainer
    image: NDArray[np.uint8]
    geometry: Geometry
    grid: tuple[int, int]
    pixels: Tensor
    tails: tuple[Tail, ...]
    pooling: str = Options.pooling
    image_size: ImageSize = Options.image_size
    layer: Layer = Options.layer

    @property
    def tail(self) -> Tail:
        """The tail of the (first) target layer."""
        return self.tails[0]

    @property
    def visual(self) -> Any:
        """The image tower."""
        return self.explainer.loaded.model.visual

    def explain(self, target: Text, contrasts: Sequence[Text] | int = (), **changes: Any) -> Explanation:
        """Where the image says `target` and not `contrasts`.

        target: a text, or several: an ensemble of prompts for one concept.
        contrasts: texts (each may be an ensemble), or a number n: the n concepts of `vocabulary` most similar to the
            target (see `Options.similar_by`).
            Of a classifier these are its classes' names, and several are a group of classes.
        changes: fields of `Options`, e.g. gamma=0.8, method="hirescam", objective="similarity".

        Raises:
            InputError: a text, a name or a number cannot be used; the message says what can.
        """
        options = self._options(changes)
        return self._answer(self.explainer._embedded_question(target, contrasts, options), options)

    def predictions(self, count: int = 5) -> dict[str, float]:
        """A classifier's `count` most probable classes, best first: name -> softmax over all of them.

        Raises:
            InputError: the model is no classifier.
        """
        classes = self.explainer._classes
        found = (classes.rows @ self.tail.embedding).softmax(0).topk(min(count, len(classes.names)))
        return {classes.names[int(i)]: float(p) for p, i in zip(found.values, found.indices, strict=True)}

    def _options(self, changes: dict[str, Any]) -> Options:
        """The options of a question about this encoding; what was settled in encoding cannot be changed any more."""
        encoded = {name: getattr(self, name) for name in _SETTLED}
        options = spelt_out(changes, replace(Options(), **encoded))
        for name, value in encoded.items():
            if getattr(options, name) != value:
                raise InputError(
                    f"this image was encoded with {name}={value!r}: give {name}={getattr(options, name)!r} to "
                    "encode(...) instead"
                )
        return options

    def _chosen(self, question: Question, options: Options) -> tuple[Sequence[Concept], Tensor]:
        """The question's concepts and directions, with the contrasts that `options.similar_by` chooses."""
        if question.count is None:
            return question.concepts, question.texts
        classes, texts = self.explainer.loaded.classes, question.texts
        if (options.similar_by or ("concepts" if classes is None else "logits")) == "logits":
            s = texts @ self.tail.embedding
            distances = (s[1:] - s[0]).abs()
        else:
            rows = unit_norm(texts if classes is None else texts[:, :-1])  # a bias is no part of a direction
            distances = -(rows[1:] @ rows[0])
        scenery = len(texts) - question.background
        nearest = distances[: scenery - 1].topk(question.count, largest=False).indices + 1
        order = [0, *nearest.tolist(), *range(scenery, len(texts))]
        return [question.concepts[i] for i in order], texts[order]

    def _answer(self, question: Question, options: Options) -> Explanation:
        concepts, texts = self._chosen(question, options)
        scale = self.explainer.scale
        # Each concept by itself, too: the target, and the contrasts together as the question has them. Always three
        # maps: products of one shape round alike, so that gamma 0 is the plain map to the last bit.
        weights = texts.new_zeros(3, len(texts))
        weights[0] = self._slopes(texts[:1], texts[1:], options)
        weights[1, 0] = 1
        weights[2, 1:] = 1 / max(len(texts) - 1, 1)
        if method_named(options.method).linear:
            maps = self.maps(scale * weights @ texts, options.method)
        else:
            alone = self.maps(scale * texts, options.method)
            maps = np.tensordot(weights.cpu().numpy(), alone, 1)
        if options.refine is not None:
            maps = affinity(self, maps)
        similarities, probabilities = self._scores(concepts, texts)
        labels, loaded = list(similarities), self.explainer.loaded
        return Explanation(
            image=self.image,
            geometry=self.geometry,
            grid=maps[0],
            target=labels[0],
            contrasts=tuple(labels[1:]),
            target_grid=maps[1],
            contrast_grid=maps[2] if len(texts) > 1 else None,
            similarities=similarities,
            probabilities=probabilities,
            options=options,
            model=loaded.name,
            pretrained=loaded.pretrained,
            score="cosine" if loaded.classes is None else "logit",
            present_above=loaded.present_above,
        )

    def _scores(self, concepts: Sequence[Concept], texts: Tensor) -> tuple[dict[str, float], dict[str, float]]:
        """Similarities and probabilities, label -> value: see `Explanation`."""
        cosines, classes = texts @ self.tail.embedding, self.explainer.loaded.classes
        if classes is None:
            probabilities = (self.explainer.scale * cosines).softmax(0)
        else:
            probabilities = classes.probabilities(concepts, self.tail.embedding)
        labels = [concept.label for concept in concepts]
        return (
            dict(zip(labels, cosines.tolist(), strict=True)),
            dict(zip(labels, probabilities.tolist(), strict=True)),
        )

    def heatmaps(
        self, targets: Sequence[Text] | Tensor, contrasts: Sequence[Text] | Tensor = (), **changes: Any
    ) -> NDArray[np.float32]:
        """The signed maps of many questions at once, float32 [K, h, w]: the `grid` of each one's `Explanation`.

        targets: K texts, or their embeddings [K, D] from `Explainer.embed`; contrasts: the same for every question.
        Before ReLU and scaling, so that they can be compared with each other.
        """
        options = self._options(changes)
        wanted, others = (
            given.float() if isinstance(given, Tensor) else self._embedded(given, options)
            for given in (targets, contrasts)
        )
        slopes, scale = self._slopes(wanted, others, options), self.explainer.scale
        if method_named(options.method).linear:
            maps = self.maps(objectives.combined(slopes, scale * wanted, scale * others), options.method)
        else:
            alone = torch.from_numpy(self.maps(scale * torch.cat([wanted, others]), options.method)).flatten(1)
            differences = objectives.combined(slopes.cpu(), alone[: len(wanted)], alone[len(wanted) :])
            maps = differences.view(-1, *self.grid).numpy()
        return maps if options.refine is None else affinity(self, maps)

    def maps(self, directions: Tensor, method: str) -> NDArray[np.float32]:
        """The method's signed maps, float32 [K, h, w], of directions in embedding space [K, D].

        For a method that is linear in them both ways give the same: few directions are pulled back one by one; for
        many, the map of every axis of embedding space is computed once and the rest is a matrix product.
        """
        if not len(directions):
            return np.zeros((0, *self.grid), np.float32)
        chosen = method_named(method)
        if chosen.linear and len(directions) >= directions.shape[1]:
            axes = torch.eye(directions.shape[1], device=directions.device)
            maps = directions @ self.once(lambda _: self._pulled_back(axes, method), key=method)
        else:
            maps = self._pulled_back(directions, method)
        return maps.reshape(-1, *self.grid).cpu().numpy()

    def _pulled_back(self, directions: Tensor, method: str) -> Tensor:
        chosen = method_named(method)
        # One by one if not linear: rounded alike whatever else is asked, for steep methods make much of little.
        chunks = torch.split(directions, _DIRECTIONS if chosen.linear else 1)
        return torch.cat([chosen.maps(self, chunk).detach() for chunk in chunks])

    def once(self, function: Callable[[ImageEncoding], Found], *, key: object = None) -> Found:
        """What a function gives for this encoding, computed when first asked for. key: to find it by, if not itself."""
        key = function if key is None else key
        if key not in self._found:
            self._found[key] = function(self)
        found: Found = self._found[key]
        return found

    @cached_property
    def _found(self) -> dict[object, Any]:
        return {}

    def _slopes(self, targets: Tensor, contrasts: Tensor, options: Options) -> Tensor:
        return objectives.slopes(
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


def _settled(options: Options) -> dict[str, Any]:
    return {name: getattr(options, name) for name in _SETTLED}


def spelt_out(changes: dict[str, Any], options: Options = Options()) -> Options:  # noqa: B008 - frozen
    """The options with some replaced, presets by their parts, checked.

    Raises:
        InputError: there is no such option, or its value cannot be used.
    """
    allowed = list(Options.__dataclass_fields__)
    for name in changes:
        if name not in allowed:
            raise InputError(f"there is no option '{name}'; there are {', '.join(allowed)}")
    if changes.get("method") in PRESETS:
        preset = PRESETS[changes["method"]]
        changes = preset | changes | {"method": preset["method"]}
    return _checked(replace(options, **changes))


def _checked(options: Options) -> Options:
    if not (isinstance(options.gamma, (int, float)) and math.isfinite(options.gamma) and options.gamma >= 0):
        raise InputError(f"gamma is a number from 0 (the plain method) up, as 0.6; not {options.gamma!r}")
    check_refinement(options.refine)
    method = method_named(options.method)
    if options.layer is not None and not method.layered:
        raise InputError(f"the method '{options.method}' has no target layer: leave layer out")
    objectives.objective_named(options.objective)
    if options.pooling not in POOLINGS:
        raise InputError(f"there is no pooling '{options.pooling}'; there are {', '.join(POOLINGS)}")
    if options.similar_by not in (None, *SIMILAR_BY):
        raise InputError(f"contrasts are similar by {' or '.join(SIMILAR_BY)}, not by '{options.similar_by}'")
    return options


__all__ = ["Explainer", "ImageEncoding", "Options", "load"]
