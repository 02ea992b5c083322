"""A question: a target, what it is told apart from, and how. It knows no image, so it can be asked of any number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from finercam_clip import checks, objectives
from finercam_clip.concepts import Concept, ConceptSpace, Text
from finercam_clip.concepts.nearness import candidates, check_distinct, distances
from finercam_clip.concepts.null import Null, null_of
from finercam_clip.errors import InputError
from finercam_clip.options import Options

Contrasts = Iterable[Text] | int  # texts, or how many of a vocabulary


@dataclass(frozen=True, eq=False)
class Question:
    """A checked question with its directions.

    Attributes:
        space: Where its concepts are directions.
        concepts: The target, the contrasts, the background.
        directions: One per concept, float32 [1 + M, D].
        options: How it is answered.
        background: How many of the concepts are scenery, which always stays.
        choose: None, or how many of the contrasts are to be chosen for each image (`about`).
        null: What takes the target's place, to see how much of a map is chance; None without `Options.null`.
    """

    space: ConceptSpace
    concepts: tuple[Concept, ...]
    directions: Tensor
    options: Options
    background: int = 0
    choose: int | None = None
    null: Null | None = None

    @property
    def labels(self) -> list[str]:
        """What the concepts are called."""
        return [concept.label for concept in self.concepts]

    def about(self, embedding: Tensor) -> Question:
        """The question about one image, f [D]: with the contrasts that are nearest to the target, best first."""
        if self.choose is None:
            return self
        candidates = slice(1, len(self.concepts) - self.background)
        by_logits = (self.options.similar_by or self.space.similar_by) == "logits"
        target, others = self.directions[0], self.directions[candidates]
        away = distances(self.space, target, others, embedding, by_logits=by_logits)
        nearest = away.topk(self.choose, largest=False).indices + 1
        return replace(self._only(nearest.tolist()), choose=None)

    def against(self, count: int) -> Question:
        """The same target against the first `count` contrasts only, and the background."""
        contrasts = range(1, len(self.concepts) - self.background)
        return self._only(list(contrasts)[:count])

    def _only(self, contrasts: list[int]) -> Question:
        total = len(self.concepts)
        order = [0, *contrasts, *range(total - self.background, total)]
        concepts = tuple(self.concepts[i] for i in order)
        null = None if self.null is None else self.null.besides(concepts)
        return replace(self, concepts=concepts, directions=self.directions[order], null=null)

    def weights(self, embedding: Tensor) -> Tensor:
        """What each concept counts for, [3, 1 + M]: in the difference, in the target alone, in the contrasts' mean.

        Always three rows: products of one shape round alike, so that gamma 0 is the plain map to the last bit.
        """
        count = len(self.concepts)
        weights = self.directions.new_zeros(3, count)
        weights[0] = slopes_of(self.space, self.directions[:1], self.directions[1:], embedding, self.options)
        weights[1, 0] = 1
        weights[2, 1:] = 1 / max(count - 1, 1)
        return weights

    def similarities(self, embedding: Tensor) -> dict[str, float]:
        """Label -> cosine, or logit, with an image's embedding f [D]."""
        return dict(zip(self.labels, (self.directions @ embedding).tolist(), strict=True))

    def probabilities(self, embedding: Tensor) -> dict[str, float]:
        """Label -> probability: of texts among themselves, of classes among all."""
        values = self.space.probabilities(self.concepts, self.directions, embedding)
        return dict(zip(self.labels, values.tolist(), strict=True))


def ask(space: ConceptSpace, target: Text, contrasts: Contrasts, options: Options) -> Question:
    """Checks a question and gives it its directions.

    Args:
        space: Where concepts are directions.
        target: A text, or several: an ensemble for one concept.
        contrasts: Texts (each may be an ensemble); one text; or a number n: the n concepts of `options.vocabulary`
            nearest to the target.
        options: How it is answered (`resolve_options`).

    Raises:
        InputError: A text, a name or a number cannot be used; the message says what can.
    """
    subject = space.concept(target, "target")
    count = checks.whole(contrasts)
    if count is None:
        others = contrast_concepts(space, contrasts)
        check_distinct(subject, others)
    else:
        others = candidates(subject, space.vocabulary(options.vocabulary))
        if not 1 <= count <= len(others):
            raise InputError(f"contrasts={count}: the vocabulary has {len(others)} concepts besides the target")
    taken = {concept.key for concept in (subject, *others)}
    scenery = [concept for concept in space.background(options.background) if concept.key not in taken]
    concepts = (subject, *others, *scenery)
    null = null_of(space, concepts if count is None else [subject], options)
    return Question(space, concepts, space.directions(concepts, options.templates), options, len(scenery), count, null)


def contrast_concepts(space: ConceptSpace, contrasts: object) -> list[Concept]:
    """Contrasts as the user gave them: texts of any iterable kind, or one text."""
    several = [contrasts] if isinstance(contrasts, str) else contrasts
    return concepts_of(space, checks.items(several, "contrasts are texts, or a number of them to choose"), "contrast")


def concepts_of(space: ConceptSpace, texts: Sequence[Text], role: str) -> list[Concept]:
    """A list of texts, checked. Raises InputError for a single text, whose letters would be taken for texts."""
    if isinstance(texts, str):
        raise InputError(f"this takes a list of texts; for a single one give [{texts!r}]")
    return [space.concept(text, role) for text in checks.items(texts, "this takes a list of texts")]


def slopes_of(space: ConceptSpace, targets: Tensor, contrasts: Tensor, embedding: Tensor, options: Options) -> Tensor:
    """What each concept counts for in each question, [K, 1 + M] (see `objectives.slopes`)."""
    objective = objectives.objective_named(options.objective)
    return objectives.slopes(objective, targets, contrasts, embedding, scale=space.scale, gamma=options.gamma)
