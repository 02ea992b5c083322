"""Tokenizers of several libraries behind one face: texts to token ids that are never cut off in silence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from finercam_clip.errors import InputError, one_line

_LETTERS = 64  # of one token, at most


@dataclass(frozen=True, eq=False)
class Tokens:
    """A tokenizer of open_clip, and what the model behind it can read.

    Attributes:
        tokenizer: Texts -> token ids [K, context length].
        known: bool [vocabulary], which rows of the token table were ever trained; None if all were. A word that needs
            another row is an error, since the model would answer all the same and mean nothing by it.
    """

    tokenizer: Callable[[list[str]], Tensor]
    known: Tensor | None = None

    @property
    def limit(self) -> int:
        """How many tokens the model reads, start and end included."""
        return int(getattr(self.tokenizer, "context_length", None) or 77)

    def ids(self, texts: Sequence[str]) -> Tensor:
        """Token ids, [K, context length].

        Raises:
            InputError: A text does not fit the model's context (open_clip itself would cut it off), or holds a word
                that the model has never seen.
        """
        for text in texts:
            length = self.count(text)
            if length > self.limit:
                raise InputError(
                    f"the text '{_shortened(text)}' has {length:,} tokens; this model reads {self.limit}: shorten it"
                )
        ids = self.tokenizer(list(texts))
        self._check_known(texts, ids)
        return ids

    def count(self, text: str) -> int:
        """How many tokens the whole text needs, start and end included; of an endless text, at least how many."""
        tokenizer: Any = self.tokenizer
        if len(text) > _LETTERS * self.limit:  # counting those of a long word takes for ever
            return len(text) // _LETTERS + 2
        if hasattr(tokenizer, "encode"):  # open_clip's SimpleTokenizer, which adds start and end later
            return len(tokenizer.encode(tokenizer.clean_fn(text))) + 2
        clean = getattr(tokenizer, "clean_fn", lambda text: text)
        return len(tokenizer.tokenizer(clean(text))["input_ids"])  # open_clip's wrappers of Hugging Face's

    def knows(self, text: str) -> bool:
        """Whether every word of a text is one that the model was trained on."""
        if self.known is None:
            return True
        if self.count(text) > self.limit:
            return False
        tokenizer: Any = self.tokenizer
        return bool(self.known.cpu()[tokenizer.encode(text.lower())].all())

    def _check_known(self, texts: Sequence[str], ids: Tensor) -> None:
        if self.known is None:
            return
        strange = (~self.known.cpu()[ids]) & (ids != 0)
        if not bool(strange.any()):
            return
        text = texts[int(torch.nonzero(strange.any(1))[0])]
        words = ", ".join(f"'{word}'" for word in text.split() if not self.knows(word))
        unknown = words or f"a word in '{_shortened(text)}'"
        raise InputError(
            f"this model does not know {unknown}: it was trained on a world of its own (see the README's model card); "
            "use words of that world, or load a model trained on photographs, as in --model ViT-B-16 --pretrained "
            "openai"
        )


def _shortened(text: str, limit: int = 60) -> str:
    return one_line(text if len(text) <= limit else text[: limit - 1] + "…")
