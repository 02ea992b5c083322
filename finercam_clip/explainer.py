"""The straight path from image and text to heatmap. Read it top to bottom.

image ── preprocess ── image tower, cut at the target layer ──► ForwardPass (activations, embedding, Jacobian, grid)
texts, or classes ── concept space ──► directions ── objective ──► Question
ForwardPass x Question ── method ──► signed map [h, w] ──► Explanation
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Unpack

from finercam_clip import checks
from finercam_clip.batches import in_batches
from finercam_clip.concepts import Text
from finercam_clip.errors import InputError
from finercam_clip.explanation import Explanation
from finercam_clip.geometry import Geometry
from finercam_clip.images import ImageInput, read_image
from finercam_clip.loaded import LoadedModel
from finercam_clip.methods import maps_of_sums
from finercam_clip.methods.refine import affinity
from finercam_clip.nulls import standing
from finercam_clip.options import Changes, ImageSize, Layer, Options, Pooling, Texts
from finercam_clip.question import Contrasts, Question, ask, concepts_of, slopes_of
from finercam_clip.questions import ask_many, ask_pairs
from finercam_clip.resolve import check_encoded, resolve_options
from finercam_clip.tensors import check_finite
from finercam_clip.towers.forward import ForwardPass, run

_BATCH = 32  # images per forward pass


@dataclass(frozen=True, eq=False)
class Explainer:
    """A model that shows which pixels of an image speak for one concept and not for others.

    It is a CLIP (`finercam_clip.load`), whose concepts are texts, or a classifier (`finercam_clip.load_classifier`),
    whose concepts are its classes. Every method raises `InputError` if an argument cannot be used. The message says
    what can.

    Attributes:
        loaded: The model.
    """

    loaded: LoadedModel

    def explain(
        self, image: ImageInput, target: Text, contrasts: Contrasts = (), **changes: Unpack[Changes]
    ) -> Explanation:
        """Explains which pixels of an image speak for `target` and not for `contrasts`.

        Args:
            image: A path, a PIL image, or a uint8 array [H, W, 3] (RGB).
            target: What to look for (see `question`).
            contrasts: What it is told apart from.
            changes: Any field of `Options`.
        """
        if isinstance(image, (list, tuple)):
            raise InputError("explain takes one image; explain_batch takes a list of them, and a list of questions")
        question = self.question(target, contrasts, **changes)  # an error in it comes before the image costs anything
        return self.encode(image, **question.options.encoding()).answer(question)

    def question(self, target: Text, contrasts: Contrasts = (), **changes: Unpack[Changes]) -> Question:
        """A checked question, which can be asked of any number of images (`ImageEncoding.answer`).

        Args:
            target: A text, or several that say the same (a prompt ensemble). For a classifier it is the name of a
                class, or the names of a group of classes.
            contrasts: Texts, each of which may be an ensemble; or a number n: the n concepts of `vocabulary` that are
                most similar to the target (see `Options.similar_by`).
            changes: Any field of `Options`, such as gamma=0.8, method="hirescam", objective="similarity".
        """
        return ask(self.loaded.space, target, contrasts, resolve_options(changes))

    def explain_batch(
        self, images: Sequence[ImageInput], questions: Sequence[tuple[Text, Contrasts]], **changes: Unpack[Changes]
    ) -> list[list[Explanation]]:
        """Every question about every image: one list per image, with one `Explanation` per question.

        Args:
            images: A list of images.
            questions: (target, contrasts) as `explain` takes them.
            changes: Any field of `Options`, for all questions.
        """
        options = resolve_options(changes)
        if not isinstance(images, (list, tuple)):
            raise InputError(f"explain_batch takes a list of images, not {type(images).__name__}")
        checked = ask_pairs(self.loaded.space, questions, options)
        encodings = self.encode(list(images), **options.encoding())
        return [[encoding.answer(question) for question in checked] for encoding in encodings]

    @overload
    def encode(  # type: ignore[overload-overlap]
        self, images: ImageInput, *, pooling: Pooling = ..., image_size: ImageSize = ..., layer: Layer = ...
    ) -> ImageEncoding: ...
    @overload
    def encode(
        self, images: Sequence[ImageInput], *, pooling: Pooling = ..., image_size: ImageSize = ..., layer: Layer = ...
    ) -> list[ImageEncoding]: ...
    def encode(
        self,
        images: ImageInput | Sequence[ImageInput],
        *,
        pooling: Pooling = Options.pooling,
        image_size: ImageSize = Options.image_size,
        layer: Layer = Options.layer,
    ) -> ImageEncoding | list[ImageEncoding]:
        """One forward pass per image. A list of images gives a list; it is computed in batches.

        Args:
            images: One image, or a list of them.
            pooling: How tokens are pooled (see `Options`).
            image_size: Size of the model's input.
            layer: Target layer.
        """
        options = resolve_options({"pooling": pooling, "image_size": image_size, "layer": layer})
        if not isinstance(images, (list, tuple)):
            return self._encode_batch([images], options)[0]  # type: ignore[list-item]
        return in_batches(lambda chunk: self._encode_batch(chunk, options), images, _BATCH)

    def embed(self, texts: Sequence[Text], templates: Texts = None) -> Tensor:
        """The directions of concepts, float32: unit-norm text embeddings [K, D], averaged over texts and templates.

        For a classifier they are the rows of its head, [K, D + 1], weights and bias.
        """
        return self.loaded.space.directions(concepts_of(self.loaded.space, texts, "text"), templates)

    def _encode_batch(self, images: Sequence[ImageInput], options: Options) -> list[ImageEncoding]:
        tower, preprocess = self.loaded.tower, self.loaded.preprocess
        pictures = [read_image(image) for image in images]
        shapes = [(picture.height, picture.width) for picture in pictures]
        sizes = [preprocess.input_size(options.image_size, shape, tower.stride) for shape in shapes]
        encodings: dict[int, ImageEncoding] = {}
        for size, squeeze in dict.fromkeys(sizes):  # images of one size go through the tower together
            members = [i for i, own in enumerate(sizes) if own == (size, squeeze)]
            prepared = [preprocess(pictures[i], size, squeeze=squeeze) for i in members]
            pixels = torch.stack([pixels for pixels, _ in prepared]).to(self.loaded.device, self.loaded.dtype)
            forwards = run(tower, pixels, options.pooling, options.layer)
            for i, (_, geometry), forward in zip(members, prepared, forwards, strict=True):
                geometry = replace(geometry, stride=forward.stride, shift=tower.shift)
                check_finite({"embedding": forward.embedding}, "this image", " by this model: try --precision fp32")
                encodings[i] = ImageEncoding(self, np.asarray(pictures[i]), geometry, forward, options)
        return [encodings[i] for i in range(len(pictures))]


@dataclass(frozen=True, eq=False)
class ImageEncoding:
    """An image after one forward pass: every further question is a matrix product.

    Attributes:
        explainer: What encoded it.
        image: uint8 [H, W, 3].
        geometry: From the grid back to the image's pixels.
        forward: What the tower made of it.
        options: How it was encoded: pooling, image_size, layer. A question cannot change these any more.
    """

    explainer: Explainer
    image: NDArray[np.uint8]
    geometry: Geometry
    forward: ForwardPass
    options: Options

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the map."""
        return self.forward.grid

    @property
    def embedding(self) -> Tensor:
        """f, float32 [D]: what scores are taken from."""
        return self.forward.embedding

    def explain(self, target: Text, contrasts: Contrasts = (), **changes: Unpack[Changes]) -> Explanation:
        """Explains which pixels speak for `target`. See `Explainer.question` for the arguments."""
        options = resolve_options(changes, self.options)
        return self.answer(ask(self.explainer.loaded.space, target, contrasts, options))

    def answer(self, question: Question) -> Explanation:
        """The answer to a question of the same model."""
        check_encoded(question.options, self.options)
        loaded, embedding = self.explainer.loaded, self.embedding
        question = question.about(embedding)
        directions, labels = loaded.space.scale * question.directions, question.labels
        weights = question.weights(embedding)
        maps = self._maps(weights, directions[:1], directions[1:], question.options)
        return Explanation(
            image=self.image,
            geometry=self.geometry,
            grid=maps[0],
            target=labels[0],
            contrasts=tuple(labels[1:]),
            target_grid=maps[1],
            contrast_grid=maps[2] if len(labels) > 1 else None,
            similarities=question.similarities(embedding),
            probabilities=question.probabilities(embedding),
            options=question.options,
            model=loaded.name,
            pretrained=loaded.pretrained,
            score=loaded.space.score,
            present_above=loaded.present_above,
            weight=float(weights[0, 0]),
            significance=standing(question, maps, float(weights[0, 0]), self._signed),
        )

    def heatmaps(
        self, targets: Sequence[Text] | Tensor, contrasts: Contrasts | Tensor = (), **changes: Unpack[Changes]
    ) -> NDArray[np.float32]:
        """The signed maps of many questions at once, float32 [K, h, w]: the `grid` of each one's `Explanation`.

        They are before ReLU and scaling, so that they can be compared with each other.

        Args:
            targets: K texts, or their embeddings [K, D] from `Explainer.embed`.
            contrasts: The same for every question: texts or embeddings.
            changes: Any field of `Options`.
        """
        options, space = resolve_options(changes, self.options), self.explainer.loaded.space
        check_encoded(options, self.options)
        pairs = ask_many(space, targets, contrasts, options, self.embedding)
        return np.concatenate([self._signed(subjects, others, options) for subjects, others in pairs])

    def predictions(self, count: int = 5) -> dict[str, float]:
        """A classifier's `count` most probable classes, best first: name -> softmax over all of them."""
        count = checks.count(count, "the number of predictions")
        predictions = self.explainer.loaded.space.predictions(self.embedding, count)
        if not predictions:
            raise InputError(f"{self.explainer.loaded.name} is no classifier: it has no classes; ask it about texts")
        return predictions

    def _signed(self, targets: Tensor, contrasts: Tensor, options: Options) -> NDArray[np.float32]:
        """Signed maps, float32 [Q, h, w], of questions that share their contrasts: `targets` [Q, D], [M, D]."""
        space = self.explainer.loaded.space
        slopes = slopes_of(space, targets, contrasts, self.embedding, options)
        return self._maps(slopes, space.scale * targets, space.scale * contrasts, options)

    def _maps(self, weights: Tensor, targets: Tensor, contrasts: Tensor, options: Options) -> NDArray[np.float32]:
        """Signed maps, float32 [Q, h, w], of weighted sums of directions (see `maps_of_sums`), refined."""
        maps = maps_of_sums(self.forward, weights, targets, contrasts, options).reshape(-1, *self.grid).cpu().numpy()
        if not np.isfinite(maps).all():
            raise InputError(f"the maps are not finite: the model's weights, or gamma {options.gamma:g}, are too large")
        return maps if options.refine is None else affinity(self.forward, maps)
