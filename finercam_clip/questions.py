"""Many questions at once, as a user writes them: lists of pairs, and targets that share their contrasts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from finercam_clip import checks
from finercam_clip.concepts import Concept, ConceptSpace, Text
from finercam_clip.concepts.nearness import check_distinct
from finercam_clip.errors import InputError
from finercam_clip.options import Options
from finercam_clip.question import Contrasts, Question, ask, concepts_of, contrast_concepts
from finercam_clip.tensors import unusable


def ask_pairs(space: ConceptSpace, questions: object, options: Options) -> list[Question]:
    """Questions from a list of (target, contrasts). Raises InputError where it is none, or one cannot be asked."""
    form = 'questions is a list of (target, contrasts), as [("a red crown", ["a blue crown"])]'
    pairs = checks.items(questions, form)
    if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
        raise InputError(form)
    return [ask(space, target, contrasts, options) for target, contrasts in pairs]


def ask_many(
    space: ConceptSpace,
    targets: Sequence[Text] | Tensor,
    contrasts: Contrasts | Tensor,
    options: Options,
    like: Tensor,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Many targets against the same contrasts, as directions only.

    Args:
        space: Where concepts are directions.
        targets: K texts, or their directions [K, D].
        contrasts: Texts, or directions.
        options: How they are answered.
        like: A direction: of this width, and on this device.

    Yields:
        The directions of some targets, in their order, and of what these are told apart from, background included.
    """
    subjects = [] if isinstance(targets, Tensor) else concepts_of(space, targets, "target")
    others = [] if isinstance(contrasts, Tensor) else contrast_concepts(space, contrasts)
    for subject in subjects:
        check_distinct(subject, others)

    def directions(concepts: Sequence[Concept]) -> Tensor:
        return space.directions(concepts, options.templates) if concepts else like.new_zeros(0, len(like))

    own = _as_directions(targets, like) if isinstance(targets, Tensor) else directions(subjects)
    given = _as_directions(contrasts, like) if isinstance(contrasts, Tensor) else directions(others)
    taken, keys = {other.key for other in others}, {subject.key for subject in subjects}
    scenery = [concept for concept in space.background(options.background) if concept.key not in taken]
    if not any(concept.key in keys for concept in scenery):
        yield own, torch.cat([given, directions(scenery)])
        return
    for subject, direction in zip(
        subjects, own, strict=True
    ):  # an entry that is the target itself is no contrast to it
        besides = [concept for concept in scenery if concept.key != subject.key]
        yield direction[None], torch.cat([given, directions(besides)])


def _as_directions(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor that stands for concepts, [K, D] as `like` [D]. Raises InputError for one that cannot."""
    if tensor.ndim != 2 or tensor.shape[1] != len(like):
        raise InputError(f"embeddings are [K, {len(like)}] here, as embed gives them; not {list(tensor.shape)}")
    if problem := unusable(tensor):
        raise InputError(f"embeddings are finite numbers; these are {problem}")
    return tensor.to(like)
