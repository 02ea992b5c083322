"""Questions: checked once, and answered alike whichever door they come by."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from reference.classifiers import classes_of
from reference.folders import CLASSES
from reference.models import BLUE, GREEN, NOISE, RED
from skimage import data

from finercam_clip import InputError, Options, preset
from finercam_clip.concepts import Concept, concept_of
from finercam_clip.concepts.nearness import candidates, check_distinct
from finercam_clip.datasets import open_dataset
from finercam_clip.explainer import Explainer
from finercam_clip.explanation import Explanation
from finercam_clip.resolve import resolve_options
from finercam_clip.runs import generate, read_manifest, read_maps
from finercam_clip.traits import Trait, trait_table

VOCABULARY = [RED, BLUE, GREEN, "a bird", "a black wing"]
COLOURS = [f"a {colour} bird" for colour in ("red", "blue", "green", "pink", "black")]

THINGS = ("cup", "tree", "road", "key", "sofa", "lamp", "pan", "shoe", "bus", "hat")

# One other value for every field of `Options`.
CHANGES: dict[str, Any] = {
    "method": "gradcam",
    "gamma": 0.5,
    "objective": "probability",
    "pooling": "mean",
    "image_size": (48, 64),
    "layer": -2,
    "refine": "affinity",
    "background": ["a bird", "a black wing"],
    "templates": ["a photo of {}", "{}"],
    "vocabulary": VOCABULARY,
    "similar_by": "logits",
    "null": [f"{number} {word}" for number in ("one", "two", "six") for word in THINGS],
}


def test_every_option_has_another_value() -> None:
    assert list(CHANGES) == list(Options.__dataclass_fields__)
    assert all(value != getattr(Options(), name) for name, value in CHANGES.items())


def _close(one: NDArray[np.float32], two: NDArray[np.float32], tolerance: float = 1e-5) -> None:
    assert one.shape == two.shape
    assert np.abs(one - two).max() <= tolerance * np.abs(two).max()


def _changed(name: str) -> tuple[dict[str, Any], Any]:
    """An option with its other value, and the contrasts of a question that it matters to."""
    if name == "similar_by":
        return {"similar_by": "logits", "vocabulary": VOCABULARY}, 3
    return {name: CHANGES[name]}, 3 if name == "vocabulary" else [BLUE, GREEN]


@pytest.mark.parametrize("name", [name for name in CHANGES if name != "null"])
def test_an_option_changes_the_answer(deep: Explainer, name: str) -> None:
    """Otherwise the tests below would say nothing. A null is only what the map is compared with."""
    changes, contrasts = _changed(name)
    changed = deep.explain(NOISE, RED, contrasts, **changes)
    plain = deep.explain(NOISE, RED, [BLUE, GREEN])
    assert changed.grid.shape != plain.grid.shape or np.abs(changed.grid - plain.grid).max() > 1e-3 * plain.grid.max()


@pytest.mark.parametrize("name", CHANGES)
def test_every_door_gives_the_answer_of_explain(deep: Explainer, name: str, tmp_path: Path) -> None:
    """`explain_batch`, `heatmaps`, runs and trait tables, under every option."""
    changes, contrasts = _changed(name)
    expected = deep.explain(NOISE, RED, contrasts, **changes)
    options = resolve_options(changes)
    encoding = deep.encode(NOISE, **options.encoding())
    for explanation in (
        encoding.explain(RED, contrasts, **changes),
        encoding.answer(deep.question(RED, contrasts, **changes)),
        deep.explain_batch([NOISE], [(RED, contrasts)], **changes)[0][0],
    ):
        _same(explanation, expected)
    (grid,) = encoding.heatmaps([RED], [text for text in expected.contrasts if text in (BLUE, GREEN)], **changes)
    if contrasts == [BLUE, GREEN]:
        _close(grid, expected.grid)

    (tmp_path / "set").mkdir()
    Image.fromarray(NOISE).save(tmp_path / "set" / "noise.png")
    dataset, texts = open_dataset(tmp_path / "set"), None if contrasts == 3 else contrasts
    generate(deep, dataset, tmp_path / "run", target=RED, contrasts=texts, **changes)
    (record,) = read_manifest(tmp_path / "run")
    assert record["target"] == RED
    assert record["contrasts"] == (texts or list(expected.contrasts))
    assert record.get("p_value") == expected.p_value
    assert record["similarities"] == pytest.approx(expected.similarities, abs=1e-6)
    _close(read_maps(tmp_path / "run", record)["finer-default"], expected.grid, 1e-3)  # kept as float16

    if texts:
        ((cell,),) = trait_table(deep, dataset, [Trait("crown", RED, tuple(texts))], **changes).rows.values()
        assert cell.score == pytest.approx(expected.similarities[RED], abs=1e-6)
        assert cell.probability == pytest.approx(expected.probabilities[RED], abs=1e-6)
        assert (cell.peak, cell.box) == (expected.peak, expected.boxes()[0] if expected.boxes() else None)


def _same(explanation: Explanation, expected: Explanation) -> None:
    _close(explanation.grid, expected.grid)
    _close(explanation.target_grid, expected.target_grid)
    assert explanation.contrasts == expected.contrasts
    assert explanation.similarities == pytest.approx(expected.similarities, abs=1e-6)
    assert explanation.options == expected.options
    assert explanation.p_value == expected.p_value


def test_the_background_of_many_questions_is_that_of_each(tiny: Explainer) -> None:
    """An entry that is the target itself is no contrast to it, whatever else is deep."""
    image, background = tiny.encode(NOISE), [RED, "a bird", BLUE]
    grids = image.heatmaps([RED, GREEN], [BLUE], background=background)
    for text, grid in zip((RED, GREEN), grids, strict=True):
        _close(grid, image.explain(text, [BLUE], background=background).grid)
    of_texts = image.heatmaps([GREEN], [BLUE], background=["a bird"])
    _close(image.heatmaps(tiny.embed([GREEN]), tiny.embed([BLUE]), background=["a bird"]), of_texts)


# ----------------------------------------------------------------------------------------------------------- contrasts

KINDS: dict[str, Callable[[list[str]], Iterable[str]]] = {
    "list": list,
    "tuple": tuple,
    "iterator": iter,
    "generator": lambda texts: (text for text in texts),
    "map": lambda texts: map(str.strip, texts),
    "dict keys": lambda texts: dict.fromkeys(texts).keys(),
    "array": np.array,
}


@pytest.mark.parametrize("kind", KINDS)
def test_contrasts_of_every_iterable_kind_count(tiny: Explainer, kind: str) -> None:
    expected = tiny.explain(NOISE, RED, [BLUE, GREEN])
    encoding = tiny.encode(NOISE)
    for explanation in (
        tiny.explain(NOISE, RED, KINDS[kind]([BLUE, GREEN])),
        encoding.explain(RED, KINDS[kind]([BLUE, GREEN])),
        tiny.explain_batch([NOISE, NOISE], [(RED, KINDS[kind]([BLUE, GREEN]))])[1][0],
    ):
        assert explanation.contrasts == (BLUE, GREEN)
        _close(explanation.grid, expected.grid)
    _close(encoding.heatmaps([RED], KINDS[kind]([BLUE, GREEN]))[0], expected.grid)


def test_a_single_contrast_may_be_a_text(tiny: Explainer) -> None:
    assert tiny.explain(NOISE, RED, BLUE).contrasts == (BLUE,)


@pytest.mark.parametrize("contrasts", [None, 1.5, True, b"blue", [BLUE, 3], object()])
def test_contrasts_of_another_kind_are_an_error(tiny: Explainer, contrasts: Any) -> None:
    with pytest.raises(InputError, match=r"contrasts? (are|must be)"):
        tiny.explain(NOISE, RED, contrasts)


@pytest.mark.parametrize("count", [np.int64(2), np.int32(2)])
def test_a_number_of_contrasts_may_be_numpys(tiny: Explainer, count: Any) -> None:
    assert len(tiny.explain(NOISE, RED, count, vocabulary=VOCABULARY).contrasts) == 2


def test_no_member_of_the_targets_ensemble_is_chosen_as_its_contrast(tiny: Explainer) -> None:
    other = "a bird with a red cap"
    explanation = tiny.explain(NOISE, [RED, other], 3, vocabulary=[RED.upper(), other, BLUE, GREEN, "a bird"])
    assert set(explanation.contrasts) == {BLUE, GREEN, "a bird"}
    with pytest.raises(InputError, match="3 concepts besides the target"):
        tiny.explain(NOISE, [RED, other], 4, vocabulary=[RED, other, BLUE, GREEN, "a bird"])


def test_a_group_of_classes_is_not_chosen_as_its_own_contrast(photos: Explainer) -> None:
    group = ["tiger cat", "Egyptian cat"]
    explanation = photos.explain(NOISE, group, 5)
    assert not set(explanation.contrasts) & set(group)


def test_a_number_of_contrasts_needs_a_vocabulary(tiny: Explainer) -> None:
    with pytest.raises(InputError, match="vocabulary"):
        tiny.explain(NOISE, RED, 2)


@pytest.mark.parametrize("same", [RED, RED.upper(), f" {RED} "])
def test_a_contrast_that_is_the_target_is_an_error_by_every_door(tiny: Explainer, same: str) -> None:
    encoding = tiny.encode(NOISE)
    for ask in (
        lambda: tiny.explain(NOISE, RED, [same]),
        lambda: encoding.heatmaps([BLUE, RED], [same]),
        lambda: tiny.explain_batch([NOISE], [(RED, [same])]),
    ):
        with pytest.raises(InputError, match="is the target itself"):
            ask()


def test_candidates_are_each_there_once() -> None:
    others = candidates(Concept((RED,)), [Concept((text,)) for text in (BLUE, BLUE.upper(), GREEN, RED)])
    assert [other.key for other in others] == [BLUE, GREEN]


@pytest.mark.parametrize("same", ["a red crown", "A Red Crown", " a red crown "])
def test_a_contrast_that_is_the_target_is_an_error(same: str) -> None:
    target, contrasts = concept_of("a red crown", "target"), [concept_of("a blue crown", "contrast")]
    with pytest.raises(InputError, match="is the target itself") as caught:
        check_distinct(target, [*contrasts, concept_of(same, "contrast")])
    assert "red crown" in str(caught.value).lower()


def test_the_same_ensemble_as_target_and_contrast_is_an_error() -> None:
    with pytest.raises(InputError, match="is the target itself"):
        check_distinct(Concept(("red", "scarlet")), [Concept(("red", "scarlet"))])


def test_a_contrast_given_twice_is_an_error_that_names_it() -> None:
    with pytest.raises(InputError, match="'Blue' is given twice"):
        check_distinct(Concept(("red",)), [Concept(("blue",)), Concept(("green",)), Concept(("Blue",))])


def test_a_question_with_distinct_contrasts_or_none_is_fine() -> None:
    check_distinct(Concept(("red",)), [])
    check_distinct(Concept(("red", "scarlet")), [Concept(("red",)), Concept(("scarlet",))])


# ------------------------------------------------------------------------------------------------ the nearest contrasts


def test_similar_by_concepts_are_the_nearest_texts_whatever_the_image(tiny: Explainer) -> None:
    target, *others = COLOURS
    near = tiny.embed(others) @ tiny.embed([target])[0]
    expected = [others[i] for i in near.argsort(descending=True)[:2].tolist()]
    for image in (NOISE, data.chelsea()):
        for similar_by in (None, "concepts"):  # the default of a CLIP
            explanation = tiny.explain(image, target, 2, vocabulary=COLOURS, similar_by=similar_by)
            assert list(explanation.contrasts) == expected


def test_similar_by_logits_are_the_texts_that_score_alike_on_the_image(tiny: Explainer) -> None:
    encoding = tiny.encode(data.chelsea())
    s = (tiny.embed(COLOURS) @ encoding.embedding).numpy()
    contrasts = encoding.explain(COLOURS[0], 2, vocabulary=COLOURS, similar_by="logits").contrasts
    assert list(contrasts) == [COLOURS[i] for i in np.argsort(np.abs(s - s[0]))[1:3]]


def test_similar_classes_are_by_logits_the_papers_ranking(photos: Explainer) -> None:
    encoding, classes = photos.encode(data.chelsea()), classes_of(photos)
    s = (classes.rows @ encoding.embedding).numpy()
    for target in ("tiger cat", "espresso"):
        order = np.argsort(np.abs(s - s[classes.index(target)]), kind="stable")
        expected = [classes.names[i] for i in order[1:4]]
        for similar_by in (None, "logits"):  # the default of a classifier
            assert list(encoding.explain(target, 3, similar_by=similar_by).contrasts) == expected


def test_similar_classes_are_by_concepts_at_the_smallest_angle_whatever_the_image(photos: Explainer) -> None:
    classes = classes_of(photos)
    w = classes.rows[:, :-1].numpy()
    w = w / np.linalg.norm(w, axis=1, keepdims=True)
    expected = np.argsort(-(w @ w[classes.index("tiger cat")]))[1:4]
    for image in (data.chelsea(), data.coffee()):
        contrasts = photos.explain(image, "tiger cat", 3, similar_by="concepts").contrasts
        assert list(contrasts) == [classes.names[i] for i in expected]


def test_a_batch_chooses_for_each_image_on_its_own(photos: Explainer) -> None:
    images = [data.chelsea(), data.coffee()]
    batch = photos.explain_batch(images, [("tiger cat", 3)])
    for image, (explanation,) in zip(images, batch, strict=True):
        assert explanation.contrasts == photos.explain(image, "tiger cat", 3).contrasts
    assert batch[0][0].contrasts != batch[1][0].contrasts


def test_more_contrasts_than_there_are_is_an_error(tiny: Explainer) -> None:
    for count in (5, 0, -1):
        with pytest.raises(InputError, match=f"contrasts={count}: the vocabulary has 4 concepts besides the target"):
            tiny.explain(NOISE, COLOURS[0], count, vocabulary=COLOURS)


def test_a_vocabulary_may_be_a_folder_by_class(bundled: Explainer, birds: Path) -> None:
    explanation = bundled.explain(NOISE, "a bird with a red crown", 3, vocabulary=birds)
    assert set(explanation.contrasts) == {name.replace("_", " ") for name in CLASSES} - {explanation.target}


# ------------------------------------------------------------------------------------------ one question, many images


def test_a_question_is_asked_of_any_number_of_images(tiny: Explainer) -> None:
    question = tiny.question(RED, 2, vocabulary=VOCABULARY, similar_by="logits")
    for image in (NOISE, NOISE[::-1].copy()):
        _same(tiny.encode(image).answer(question), tiny.explain(image, RED, 2, **_logits()))


def _logits() -> dict[str, Any]:
    return {"vocabulary": VOCABULARY, "similar_by": "logits"}


def test_against_fewer_contrasts_is_the_question_with_those(tiny: Explainer) -> None:
    """The paper's modes: none, all, the first. The background stays."""
    encoding, background = tiny.encode(NOISE), ["a bird"]
    question = tiny.question(RED, [BLUE, GREEN], background=background)
    for count, contrasts in ((0, []), (1, [BLUE]), (2, [BLUE, GREEN])):
        expected = encoding.explain(RED, contrasts, background=background)
        _same(encoding.answer(question.against(count)), expected)


def test_a_question_of_another_encoding_is_refused(tiny: Explainer) -> None:
    encoding = tiny.encode(NOISE)
    for changes in ({"pooling": "mean"}, {"image_size": 48}, {"layer": -2}):
        with pytest.raises(InputError, match="this image was encoded with"):
            encoding.answer(tiny.question(RED, [BLUE], **changes))


def test_weights_say_what_each_concept_counts_for(tiny: Explainer) -> None:
    """Difference, target alone, contrasts alone."""
    question = tiny.question(RED, [BLUE, GREEN], gamma=0.5)
    weights = question.weights(tiny.encode(NOISE).embedding)
    torch.testing.assert_close(weights, torch.tensor([[1, -0.25, -0.25], [1, 0, 0], [0, 0.5, 0.5]]))


# ------------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize("gamma", [np.float32(0.6), np.float64(0.6), 0.6])
def test_gamma_may_be_any_kind_of_number(tiny: Explainer, gamma: Any) -> None:
    explanation = tiny.explain(NOISE, RED, [BLUE], gamma=gamma)
    assert type(explanation.options.gamma) is float
    assert '"gamma": 0.6' in explanation.to_json()


@pytest.mark.parametrize("gamma", [True, False, "0.6", None, -0.1, float("nan"), float("inf"), 1j])
def test_gamma_of_another_kind_is_an_error(gamma: Any) -> None:
    with pytest.raises(InputError, match="gamma is a number from 0"):
        resolve_options({"gamma": gamma})


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"method": "cam"}, "hirescam, gradcam"),
        ({"objective": "x"}, "finer"),
        ({"pooling": "max"}, "model, mean"),
        ({"refine": "crf"}, "there is affinity, or None"),
        ({"similar_by": "name"}, "logits or concepts"),
        ({"alpha": 1.0}, "method, gamma"),
        ({"layer": -2, "method": "legrad"}, "'legrad' has no target layer"),
    ],
)
def test_wrong_options_are_errors_that_list_what_there_is(tiny: Explainer, changes: dict[str, Any], hint: str) -> None:
    """Before the image is read."""
    with pytest.raises(InputError, match=hint):
        tiny.explain("nowhere.png", RED, [BLUE], **changes)


def test_the_papers_modes_are_presets(photos: Explainer) -> None:
    encoding = photos.encode(data.chelsea())
    baseline, default, compare = (
        encoding.explain("tiger cat", **preset(name)) for name in ("baseline", "finer-default", "finer-compare")
    )
    np.testing.assert_array_equal(baseline.grid, encoding.explain("tiger cat", 3, gamma=0).grid)
    assert (len(default.contrasts), len(compare.contrasts)) == (3, 1)
    assert (default.options.gamma, compare.options.gamma) == (0.6, 0.6)
    assert compare.contrasts == default.contrasts[:1]
    with pytest.raises(InputError, match="baseline, finer-default, finer-compare"):
        preset("finest")


def test_a_preset_is_its_parts_and_what_is_given_goes_before_them() -> None:
    options = resolve_options({"method": "clip-es", "gamma": 0.3, "refine": None})
    assert (options.method, options.objective, options.pooling) == ("gradcam", "probability", "mean")
    assert (options.gamma, options.refine) == (0.3, None)


@pytest.mark.parametrize("method", [[], None, 3, "cam"])
def test_a_method_of_no_name_is_an_error_that_lists_them(method: Any) -> None:
    with pytest.raises(InputError, match=r"there is no method .*hirescam, gradcam"):
        resolve_options({"method": method})


# ------------------------------------------------------------------------------------------------------ lists of things


def test_a_bare_text_is_not_taken_for_a_list_of_letters(tiny: Explainer) -> None:
    for call in (tiny.embed, tiny.encode(NOISE).heatmaps):
        with pytest.raises(InputError, match=r"a list of texts; for a single one give \['bird'\]"):
            call("bird")


@pytest.mark.parametrize("questions", [3, [3], "bird", ["bird"], [(RED,)], [None], {RED: [BLUE]}])
def test_questions_of_another_shape_are_an_error(tiny: Explainer, questions: Any) -> None:
    with pytest.raises(InputError, match="questions is a list of"):
        tiny.explain_batch([NOISE], questions)
