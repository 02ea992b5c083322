"""Embeddings of texts that are kept, so that the same text is not embedded twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

KEPT = 16_384  # embeddings: 34 MB at 512 dimensions

Texts = tuple[str, ...]  # of a concept in all templates


@dataclass(eq=False)
class Kept:
    """The last `KEPT` embeddings that were needed, [D] each, of one version of a model's weights."""

    version: object = None
    embeddings: dict[Texts, Tensor] = field(default_factory=dict)

    def of(self, keys: Sequence[Texts], version: object, embed: Callable[[list[Texts]], Tensor]) -> Tensor:
        """The embeddings of all keys, [K, D]; `embed` makes those that are not kept.

        Args:
            keys: The texts of each concept.
            version: What changes whenever the weights do.
            embed: Keys -> embeddings.
        """
        if version != self.version:
            self.version = version
            self.embeddings.clear()
        kept, different = self.embeddings, dict.fromkeys(keys)
        missing = [texts for texts in different if texts not in kept]
        embeddings = {texts: kept.pop(texts) for texts in different if texts in kept}
        embeddings |= dict(zip(missing, embed(missing), strict=True)) if missing else {}
        kept.update(embeddings)  # those just needed last
        for texts in list(kept)[: max(len(kept) - KEPT, 0)]:
            del kept[texts]
        return torch.stack([embeddings[texts] for texts in keys])
