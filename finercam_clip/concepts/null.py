"""What takes the target's place, so that a map can be compared with those of other concepts (`significance`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from finercam_clip.concepts import Concept, ConceptSpace
from finercam_clip.concepts.nearness import candidates
from finercam_clip.errors import InputError
from finercam_clip.options import Options, Texts
from finercam_clip.significance import FEWEST, LEVEL

CLASSES, NEAREST = "classes", "nearest"  # what null= calls all classes of a classifier, and those that are most alike
_ALIKE = 60  # how many those are
# The p-value at which a region stands out, for packaged vocabularies of a closed world. One in eight of the aviary's
# traits is true of any bird: the map of a true text is often only the fourteenth of all.
_LEVELS = {"aviary": 0.15}


@dataclass(frozen=True, eq=False)
class Null:
    """Concepts in the place of the target.

    Attributes:
        name: Where they come from.
        concepts: K of them, none of which is the target or near to it.
        directions: Theirs, [K, D].
        level: The p-value at which a region stands out.
    """

    name: str
    concepts: tuple[Concept, ...]
    directions: Tensor
    level: float

    def besides(self, others: Sequence[Concept]) -> Null:
        """Those that are none of others, such as the contrasts.

        Raises:
            InputError: They are too few: none of their p-values could be as low as the level.
        """
        keys = {concept.key for concept in others}
        kept = [i for i, concept in enumerate(self.concepts) if concept.key not in keys]
        if len(kept) < FEWEST:
            raise InputError(
                f"the null '{self.name}' has {len(kept)} concepts that this model knows and that are not the target, "
                f"near to it, or a contrast; a p-value of {LEVEL:g} needs {FEWEST}: give a longer list or a text file"
            )
        return Null(self.name, tuple(self.concepts[i] for i in kept), self.directions[kept], self.level)


def null_of(space: ConceptSpace, concepts: Sequence[Concept], options: Options) -> Null | None:
    """The null of a question, or None without `Options.null`.

    Concepts near the target are left out, because what they light up is no chance. Near are those whose cosine with
    the target is at least halfway between 1 and the mean cosine of two concepts of the null. The null "nearest" holds
    the classes that are nearest to the target of those that are left.

    Args:
        space: Where concepts are directions.
        concepts: Those of the question, the target first. None of them is in the null.
        options: `null` and `templates` of them.

    Raises:
        InputError: The source cannot be read, or names too few concepts (see `besides`).
    """
    if options.null is None:
        return None
    target, others = concepts[0], concepts[1:]
    entries = candidates(target, _concepts(space, options.null))
    name = str(options.null) if isinstance(options.null, (str, Path)) else "given"
    directions = space.directions([target, *entries], options.templates)
    bare = space.bare(directions)
    own, bare = bare[0], bare[1:]
    pairs = len(bare) * (len(bare) - 1)
    typical = (bare.sum(0).square().sum() - len(bare)) / max(pairs, 1)  # the mean cosine of a pair
    cosines = bare @ own
    alike = [i for i in cosines.argsort(descending=True).tolist() if cosines[i] < (1 + typical) / 2]
    kept = sorted(alike[:_ALIKE] if name == NEAREST else alike)
    null = Null(name, tuple(entries[i] for i in kept), directions[1:][kept], _LEVELS.get(name, LEVEL))
    return null.besides(others)


def _concepts(space: ConceptSpace, source: Texts) -> list[Concept]:
    """Those that a source names, but for texts with words that the model does not know.

    Raises:
        InputError: The source cannot be read, a classifier has no such class, or a CLIP is asked for classes.
    """
    if space.names:
        try:
            return space.vocabulary(None if source in (CLASSES, NEAREST) else source)
        except InputError as error:
            raise InputError(
                f"{error}; the null of all its classes is null='{CLASSES}', of those most like the target '{NEAREST}'"
            ) from error
    if source in (CLASSES, NEAREST):
        raise InputError(
            f"null='{source}' is for classifiers; for CLIP give texts: 'everyday', 'traits', a text file, or a list"
        )
    return space.background(source)
