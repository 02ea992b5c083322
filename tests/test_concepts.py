"""Texts: concepts, templates, vocabularies, and tokens that are never cut off in silence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from reference.folders import CLASSES
from reference.models import BLUE, GREEN, NOISE, RED, tiny_explainer
from torch import Tensor

from finercam_clip.concepts import Concept, concept_of, kept
from finercam_clip.concepts.kept import Kept
from finercam_clip.concepts.texts import written
from finercam_clip.concepts.tokens import Tokens
from finercam_clip.concepts.vocabulary import (
    class_names,
    prompt_files,
    read_prompts,
    spoken,
    templates_of,
    vocabulary_of,
)
from finercam_clip.errors import InputError
from finercam_clip.explainer import Explainer

BUNDLED_CONTEXT = 32


@pytest.fixture(scope="module", params=[BUNDLED_CONTEXT, 77])
def tokenizer(request: pytest.FixtureRequest) -> open_clip.SimpleTokenizer:
    return open_clip.SimpleTokenizer(context_length=request.param)


def one_line(caught: pytest.ExceptionInfo[InputError]) -> str:
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# ------------------------------------------------------------------------------------------------------------ concepts


def test_a_text_is_a_concept_and_several_are_an_ensemble() -> None:
    assert concept_of("a red crown", "target").texts == ("a red crown",)
    assert concept_of(["a red crown", "a crown that is red"], "target").texts == ("a red crown", "a crown that is red")
    assert concept_of(("a red crown",), "target") == concept_of("a red crown", "target")


def test_space_around_a_text_does_not_matter() -> None:
    assert concept_of("  a red crown\n", "target") == concept_of("a red crown", "target")


def test_an_ensemble_is_named_by_all_its_texts() -> None:
    assert concept_of(["red", "blue"], "target").label == "red / blue"


@pytest.mark.parametrize("text", ["", "  ", "\n\t", [], ["a red crown", ""], ["  "]], ids=repr)
@pytest.mark.parametrize("role", ["target", "contrast"])
def test_an_empty_text_is_an_error_that_names_its_role(text: str | list[str], role: str) -> None:
    with pytest.raises(InputError, match=f"the {role} is an empty text") as caught:
        concept_of(text, role)
    one_line(caught)


@pytest.mark.parametrize("text", [3, None, ["a red crown", 3], b"a red crown"], ids=repr)
def test_what_is_not_a_text_is_an_error(text: object) -> None:
    with pytest.raises(InputError, match="the target must be a text or several texts"):
        concept_of(text, "target")  # type: ignore[arg-type]


def test_an_ensemble_is_written_in_every_template() -> None:
    texts = written(Concept(("red", "blue")), ["{}", "a photo of {}."])
    assert texts == ("red", "a photo of red.", "blue", "a photo of blue.")


# --------------------------------------------------------------------------------------------------------------- files


def test_the_packaged_files_are_found() -> None:
    names = {"aviary", "background", "bird-parts", "car-parts", "templates-clip-es", "templates-general"}
    assert names <= set(prompt_files())


@pytest.mark.parametrize("name", sorted(prompt_files()))
def test_every_packaged_file_has_entries_and_says_what_it_is(name: str) -> None:
    entries = read_prompts(name)
    assert entries
    assert len(set(entries)) == len(entries)
    assert not any(entry.startswith("#") or entry != entry.strip() for entry in entries)
    assert prompt_files()[name].read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("name", sorted(prompt_files()))
def test_packaged_entries_are_templates_or_plain_concepts(name: str) -> None:
    if name.startswith("templates-"):
        assert templates_of(name) == read_prompts(name)
    else:
        assert not any("{" in entry for entry in read_prompts(name))


def test_every_packaged_vocabulary_fits_the_shortest_context() -> None:
    tokenizer = open_clip.SimpleTokenizer(context_length=BUNDLED_CONTEXT)
    for name in prompt_files():
        assert Tokens(tokenizer).ids(read_prompts(name)).shape[1] == BUNDLED_CONTEXT


def test_a_users_file_is_read_without_comments_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "crowns.txt"
    path.write_bytes("\ufeff# crowns\r\n\r\n  a red crown  \r\n#a\r\nein grüner Schopf\r\n".encode())
    assert read_prompts(path) == ["a red crown", "ein grüner Schopf"]
    assert vocabulary_of(str(path)) == read_prompts(path)


def test_a_list_is_a_vocabulary_as_it_stands() -> None:
    assert vocabulary_of(("red", "blue")) == ["red", "blue"]


@pytest.mark.parametrize("name", ["crowns", "no/such/file.txt", "c" * 300], ids=["name", "path", "long"])
def test_prompts_that_are_not_there_are_an_error(name: str) -> None:
    with pytest.raises(InputError) as caught:
        read_prompts(name)
    assert name in one_line(caught)


def test_an_unknown_name_is_answered_with_the_names_that_exist() -> None:
    with pytest.raises(InputError, match="there are no prompts 'crowns'") as caught:
        read_prompts("crowns")
    assert all(name in str(caught.value) for name in prompt_files())


@pytest.mark.parametrize("content", [b"", b"# nothing but a comment\n", b"\n\n"])
def test_a_file_without_entries_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "empty.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match="no entries"):
        read_prompts(path)


def test_a_file_that_is_not_utf8_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(b"gr\xfcn\n")
    with pytest.raises(InputError, match="UTF-8") as caught:
        read_prompts(path)
    assert str(path) in one_line(caught)


def test_a_folder_is_no_prompts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there are no prompts"):
        read_prompts(tmp_path)


# ----------------------------------------------------------------------------------------------------- folders by class


def test_names_of_classes_come_from_texts_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("# classes\nb\na\n")
    assert class_names(tmp_path / "names.txt") == ["b", "a"]
    for name in ("b", "a", ".hidden"):
        (tmp_path / "cars" / "train" / name).mkdir(parents=True)
    assert class_names(tmp_path / "cars") == class_names(tmp_path / "cars" / "train") == ["a", "b"]
    with pytest.raises(InputError, match="no folders"):
        class_names(tmp_path / "cars" / "train" / "a")


def test_the_names_of_a_folders_folders_are_a_vocabulary_in_words(birds: Path) -> None:
    assert spoken("001.Black_footed_Albatross") == "Black footed Albatross"
    assert vocabulary_of(birds) == sorted(name.replace("_", " ") for name in CLASSES)


# ----------------------------------------------------------------------------------------------------------- templates


def test_without_templates_a_concept_is_its_own_text() -> None:
    assert written(Concept(("red",)), templates_of(None)) == ("red",)


def test_templates_come_from_a_list_a_file_or_a_packaged_name(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("# mine\na photo of {}\n")
    assert templates_of(["a photo of {}"]) == templates_of(tmp_path / "mine.txt") == ["a photo of {}"]
    assert templates_of("templates-clip-es") == ["a clean origami {}."]


@pytest.mark.parametrize("template", ["a photo", "{} and {}", "{name}", "{0}", "{{}}", "{", "}{", ""])
def test_a_template_without_exactly_one_place_is_an_error(template: str) -> None:
    with pytest.raises(InputError, match="where the concept goes"):
        templates_of(["{}", template])


def test_braces_in_a_concept_are_plain_text() -> None:
    assert written(Concept(("a {bird}",)), ["a photo of {}"]) == ("a photo of a {bird}",)


# -------------------------------------------------------------------------------------------------------------- tokens


def words(tokens: int) -> str:
    """A text of so many tokens, start and end included."""
    return " ".join(["red"] * (tokens - 2))


def test_a_text_that_just_fits_is_kept_whole(tokenizer: open_clip.SimpleTokenizer) -> None:
    tokens = Tokens(tokenizer).ids([words(tokenizer.context_length)])
    assert tokens.shape == (1, tokenizer.context_length)
    assert tokens[0, -1] == tokenizer.eot_token_id
    assert (tokens[0, 1:-1] == tokenizer.encode("red")[0]).all()


def test_one_token_too_many_is_an_error_that_names_text_and_limit(tokenizer: open_clip.SimpleTokenizer) -> None:
    limit = tokenizer.context_length
    text = words(limit + 1)
    with pytest.raises(InputError) as caught:
        Tokens(tokenizer).ids(["red", text])
    message = one_line(caught)
    assert text[:40] in message
    assert f"{limit + 1} tokens" in message
    assert f"reads {limit}" in message


def test_tokens_are_open_clips_own(tokenizer: open_clip.SimpleTokenizer) -> None:
    texts = ["a bird with a red crown", "Ein Vogel, grün &amp; blau!", "鳥"]
    torch.testing.assert_close(Tokens(tokenizer).ids(texts), tokenizer(texts))


def test_length_is_counted_after_the_tokenizers_own_cleaning() -> None:
    tokenizer = open_clip.SimpleTokenizer(context_length=8)
    assert Tokens(tokenizer).ids(["&amp;amp;" + " " * 40 + "red"]).shape == (1, 8)


def test_a_tokenizer_of_transformers_is_held_to_its_limit_too() -> None:
    def hf_tokenizer(texts: list[str]) -> Tensor:
        return torch.ones(len(texts), 5, dtype=torch.long)

    hf_tokenizer.context_length = 5  # type: ignore[attr-defined]
    hf_tokenizer.tokenizer = lambda text: {"input_ids": text.split()}  # type: ignore[attr-defined]
    assert Tokens(hf_tokenizer).ids(["a b c d e"]).shape == (1, 5)
    with pytest.raises(InputError, match="6 tokens; this model reads 5"):
        Tokens(hf_tokenizer).ids(["a b c d e f"])


def known_from(tokenizer: open_clip.SimpleTokenizer, *texts: str) -> Tensor:
    known = torch.zeros(tokenizer.vocab_size, dtype=torch.bool)
    known[tokenizer(list(texts)).flatten()] = True
    return known


def test_known_words_pass_in_any_order_and_case(tokenizer: open_clip.SimpleTokenizer) -> None:
    known = known_from(tokenizer, "a bird with a red crown")
    assert len(Tokens(tokenizer, known).ids(["a red bird", "Crown with a RED bird"])) == 2


def test_a_word_that_training_never_saw_is_an_error_that_names_it(tokenizer: open_clip.SimpleTokenizer) -> None:
    known = known_from(tokenizer, "a bird with a red crown")
    with pytest.raises(InputError, match="does not know 'helicopter'") as caught:
        Tokens(tokenizer, known).ids(["a red bird", "a helicopter with a crown"])
    assert "'crown'" not in one_line(caught)
    assert "--model" in str(caught.value)


def test_every_unknown_word_is_named(tokenizer: open_clip.SimpleTokenizer) -> None:
    known = known_from(tokenizer, "a bird with a red crown")
    with pytest.raises(InputError, match="'Ferrari', 'castle'"):
        Tokens(tokenizer, known).ids(["a Ferrari with a castle"])


def test_the_padding_needs_no_training(tokenizer: open_clip.SimpleTokenizer) -> None:
    known = known_from(tokenizer, words(tokenizer.context_length))
    assert not known[0]
    assert len(Tokens(tokenizer, known).ids(["red"])) == 1


def test_a_model_that_knows_all_words_asks_nothing(tokenizer: open_clip.SimpleTokenizer) -> None:
    assert len(Tokens(tokenizer, None).ids(["a helicopter"])) == 1
    assert len(Tokens(tokenizer, torch.ones(tokenizer.vocab_size, dtype=torch.bool)).ids(["a helicopter"])) == 1


# ---------------------------------------------------------------------------------------------------------------- texts


def test_an_ensemble_is_the_mean_of_its_unit_norm_texts(tiny: Explainer) -> None:
    red, green = tiny.embed([RED, GREEN])
    torch.testing.assert_close(tiny.embed([[RED, GREEN]])[0], torch.nn.functional.normalize(red + green, dim=0))
    templated = tiny.embed(["red"], templates=["a {} bird", "the {} bird"])[0]
    torch.testing.assert_close(templated, tiny.embed([["a red bird", "the red bird"]])[0])


def test_a_text_is_embedded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    explainer = tiny_explainer()
    space: Any = explainer.loaded.space
    runs: list[int] = []
    encode = space.encode
    explainer = Explainer(
        replace(explainer.loaded, space=replace(space, encode=lambda ids: runs.append(len(ids)) or encode(ids)))
    )
    for _ in range(3):
        explainer.explain(NOISE, RED, [BLUE])
    assert sum(runs) == 2
    explainer.explain(NOISE, BLUE, [GREEN, RED])
    assert sum(runs) == 3
    explainer.explain(NOISE, RED, [BLUE], templates=["a photo of {}"])
    assert sum(runs) == 5


def test_what_is_kept_is_bounded_and_the_last_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "KEPT", 2)
    explainer = tiny_explainer()
    space: Any = explainer.loaded.space
    first = explainer.embed([RED, BLUE, GREEN])
    assert list(space.kept.embeddings) == [(BLUE,), (GREEN,)]
    explainer.embed([BLUE])
    assert list(space.kept.embeddings) == [(GREEN,), (BLUE,)]
    assert torch.equal(explainer.embed([GREEN, RED, "a bird"])[:2], first[[2, 0]])


def test_an_embedding_is_the_same_to_the_last_bit_whatever_else_is_asked(bundled: Explainer) -> None:
    """So that a run that goes on after a stop rounds alike, and an answer does not depend on what was asked before."""
    crowns = [f"a bird with a {colour} crown" for colour in ("red", "blue", "green", "white")]
    space: Any = bundled.loaded.space
    fresh = lambda: Explainer(replace(bundled.loaded, space=replace(space, kept=Kept())))  # noqa: E731
    together = fresh().embed(crowns)
    for i, text in enumerate(crowns):
        assert torch.equal(fresh().embed([text])[0], together[i])
    assert torch.equal(fresh().embed(crowns[::-1]), together.flip(0))
