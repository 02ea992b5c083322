"""Classes as concepts: names that are never taken for others, and a head's rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from reference.classifiers import classes_of
from reference.models import NOISE
from timm.data import ImageNetInfo
from torchvision import models

from finercam_clip import InputError
from finercam_clip.concepts import Concept
from finercam_clip.concepts.classes import ClassSpace, named_head
from finercam_clip.explainer import Explainer

INFO: Any = ImageNetInfo("imagenet-1k")

# ---------------------------------------------------------------------------------------------------------------- names


def _named(*names: str) -> ClassSpace:
    return named_head(torch.zeros(len(names), 2), torch.zeros(len(names)), names)


def test_names_match_whatever_case_punctuation_and_numbering() -> None:
    cars = _named("Acura RL Sedan 2012", "Ram C/V Cargo Van Minivan 2012", "Audi S4 Sedan 2007", "Audi S4 Sedan 2012")
    assert cars.index("Acura RL Sedan 2012") == cars.index("acura_rl-sedan 2012") == 0
    assert cars.index("Ram C-V Cargo Van Minivan 2012") == 1
    assert _named("001.Black_footed_Albatross", "002.Laysan").index("Black-footed albatross") == 0
    assert _named("Anna's hummingbird", "Águila").index("aguila") == 1
    assert _named("tench, Tinca tinca", "x").index("Tinca tinca") == 0
    assert _named("tiger cat", "tiger, Panthera tigris").index("tiger") == 1


def test_a_name_of_no_class_or_of_several_is_an_error_with_suggestions() -> None:
    """The seed's fuzzy match takes "Audi S4 Sedan 2012" for the 2007 one where only that is there."""
    cars = _named("Acura RL Sedan 2012", "Audi S4 Sedan 2007", "Audi S5 Convertible 2012")
    for name, suggestion in (("Audi S4 Sedan 2012", "Audi S4 Sedan 2007"), ("Audi", "'Audi S4 Sedan 2007', 'Audi S5")):
        with pytest.raises(InputError, match=f"no class '{name}'.*did you mean .*{suggestion}"):
            cars.index(name)
    with pytest.raises(InputError, match="they are such as 'Acura"):
        cars.index("zebra")
    cranes = _named("crane", "heron", "crane")
    with pytest.raises(InputError, match="2 classes: give 'crane #0' or 'crane #2'"):
        cranes.index("crane")
    assert cranes.index("crane #2") == 2


def test_no_name_is_ever_taken_for_another_classs(photos: Explainer) -> None:
    """Every ImageNet name finds its own class, and every word or part of it that is not a name finds none."""
    classes = photos.loaded.space
    assert isinstance(classes, ClassSpace)
    for i, name in enumerate(classes.names):
        assert classes.index(name) == i
        if "#" not in name and name != "cardigan":  # the dog is a Cardigan
            assert classes.index(name.upper()) == i
    for name in ("cat", "horse", "hor se cart house", "sedan", "", "  "):
        with pytest.raises(InputError):
            classes.index(name)


def _imagenet() -> ClassSpace:
    names: list[str] = INFO.label_descriptions()
    return _named(*names)


@pytest.mark.parametrize("form", ["{}", "{}-of_some.kind", " {}", "{:>4}"], ids=["id", "id and words", "blank", "wide"])
def test_imagenets_classes_are_called_by_their_wordnet_ids(form: str) -> None:
    space = _imagenet()
    assert [space.index(form.format(id)) for id in INFO.label_names()] == list(range(1000))
    assert space.index(INFO.label_names()[207].upper()) == 207


def test_a_wordnet_id_with_another_classs_name_is_refused() -> None:
    """The folders of Stanford Dogs are called "n02085620-Chihuahua"."""
    assert _imagenet().index("n02085620-Chihuahua") == 151
    with pytest.raises(InputError, match=r"2 classes: give n02085620 \(Chihuahua\) or n01440764 \(tench"):
        _imagenet().index("n02085620-tench")


def test_other_lists_of_imagenets_names_have_its_ids_too() -> None:
    """torchvision's, and names in another spelling; but no list that differs in one class, or in its order."""
    torchvision: list[str] = models.ResNet18_Weights.DEFAULT.meta["categories"]
    spelt = [name.split(",")[-1].upper().replace(" ", "_") for name in INFO.label_descriptions()]
    for names in (torchvision, spelt):
        assert _named(*names).index("n03126707") == 517
    mine = [*torchvision[:500], "my class", *torchvision[501:]]
    for names in (mine, torchvision[::-1], torchvision[:999]):
        with pytest.raises(
            InputError, match=r"no class 'n03126707' .crane.* which has no WordNet ids; did you mean 'crane"
        ):
            _named(*names).index("n03126707")


def test_ids_of_no_class_are_said_to_mean_what_wordnet_says() -> None:
    with pytest.raises(InputError, match=r"no class 'n00007846' \(person, individual, .* among the 1,000"):
        _imagenet().index("n00007846")


def test_classes_are_called_by_their_indices_where_none_is_named_so() -> None:
    space = _imagenet()
    for form in ("{}", "{:03}", "{:05}"):
        assert [space.index(form.format(i)) for i in range(1000)] == list(range(1000))
    with pytest.raises(InputError, match=r"no class '1000'.*indices are 0 to 999"):
        space.index("1000")
    numbers = _named("0", "1", "10", "2")  # as folders are sorted
    assert [numbers.index(name) for name in ("0", "1", "10", "2")] == [0, 1, 2, 3]
    for name in ("3", "02", "-1", "1.5", "1.0", "٣", "9" * 5000):
        with pytest.raises(InputError, match="no class"):
            numbers.index(name)


def test_a_first_name_goes_before_other_classes_synonyms() -> None:
    """All of ImageNet's do, in whatever spelling, except for those that are two classes."""
    space = _imagenet()
    assert {name: space.index(name) for name in ("crayfish", "gong", "polecat", "tub")} == {
        "crayfish": 124, "gong": 577, "polecat": 358, "tub": 876
    }  # fmt: skip
    refused = set()
    for i, name in enumerate(INFO.label_descriptions()):
        first = name.split(",")[0]
        for spelling in (first, first.replace(" ", "_")):
            try:
                assert space.index(spelling) == i
            except InputError:
                refused.add(spelling)
    assert refused == {"crane", "maillot"}
    assert space.names[638] == "maillot #638"
    assert (space.index("Cardigan"), space.index("cardigan")) == (264, 474)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("crane", r"give n02012849 \(large long-necked wading bird .* or n03126707 \(lifts and moves heavy objects"),
        ("Maillot", r"give n03710637 \(tights for dancers or gymnasts\) or n03710721 \(maillot, tank suit\)"),
        ("CARDIGAN", r"give n02113186 \(Cardigan, Cardigan Welsh corgi\) or n02963159 \(cardigan\)"),
        ("panda", r"give n02509815 \(lesser panda, .*\) or n02510455 \(giant panda"),
    ],
)
def test_a_name_of_two_classes_is_refused_with_their_ids(name: str, told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        _imagenet().index(name)
    assert len(str(caught.value)) < 300


def test_a_name_that_the_user_gave_a_class_is_always_its_own() -> None:
    """Commas may stand for anything there."""
    colours = _named("sedan", "sedan, red", "sedan, blue")
    assert colours.names == ("sedan", "sedan, red", "sedan, blue")
    assert [colours.index(name) for name in colours.names] == [0, 1, 2]
    with pytest.raises(InputError, match="3 classes: give 'sedan' or 'sedan, red' or 'sedan, blue'"):
        colours.index("Sedan")
    assert _named("+", "-").index("-") == 1


def test_an_error_about_long_names_is_short() -> None:
    space = _named(*(f"{'x' * 5000} {i}, a" for i in range(50)))
    for name in ("x" * 5000, "a"):
        with pytest.raises(InputError) as caught:
            space.index(name)
        assert len(str(caught.value)) < 400


def test_a_head_without_names_is_called_by_numbers() -> None:
    space = named_head(torch.zeros(3, 2), torch.zeros(3), None)
    assert space.names == ("0", "1", "2")
    assert space.index("2") == 2


@pytest.mark.parametrize(
    ("names", "message"),
    [(("a", "b"), "2 class names for a head of 3"), (("a", " ", "c"), "the name of class 1 is empty")],
)
def test_names_that_do_not_fit_a_head_are_an_error(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        named_head(torch.zeros(3, 2), torch.zeros(3), names)


# ----------------------------------------------------------------------------------------------------------------- rows


@pytest.fixture(scope="module")
def space() -> ClassSpace:
    """Six classes of eight features."""
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(6, 8, generator=generator), torch.randn(6, generator=generator)
    return named_head(weight, bias, ["tabby", "lynx", "tiger cat", "crane", "heron", "crane"])


@pytest.fixture(scope="module")
def features() -> torch.Tensor:
    """Of an image, with the 1 that the bias is multiplied with."""
    return torch.cat([torch.randn(8, generator=torch.Generator().manual_seed(1)), torch.ones(1)])


def test_a_logit_is_weights_times_features_and_the_bias(space: ClassSpace, features: torch.Tensor) -> None:
    weight, bias = space.rows[:, :-1], space.rows[:, -1]
    directions = space.directions([Concept((name,)) for name in space.names])
    torch.testing.assert_close(directions @ features, weight @ features[:-1] + bias)


def test_probabilities_are_over_all_classes_and_a_groups_are_summed(space: ClassSpace, features: torch.Tensor) -> None:
    concepts = [space.concept("lynx", "target"), space.concept(["tabby", "crane #5"], "target")]
    every = (space.rows @ features).softmax(0)
    probabilities = space.probabilities(concepts, space.directions(concepts), features)
    torch.testing.assert_close(probabilities, torch.stack([every[1], every[0] + every[5]]))


def test_a_groups_direction_is_its_classes_mean(space: ClassSpace) -> None:
    (group,) = space.directions([space.concept(["tabby", "lynx", "Tabby"], "target")])
    torch.testing.assert_close(group, (space.rows[0] + space.rows[1]) / 2)


def test_predictions_are_the_most_probable_classes_best_first(space: ClassSpace, features: torch.Tensor) -> None:
    every = (space.rows @ features).softmax(0).tolist()
    best = sorted(zip(every, space.names, strict=True), reverse=True)[:3]
    assert list(space.predictions(features, 3)) == [name for _, name in best]
    assert list(space.predictions(features, 3).values()) == pytest.approx([p for p, _ in best])
    assert len(space.predictions(features, 100)) == 6


def test_a_bare_direction_is_of_unit_norm_and_without_its_bias(space: ClassSpace) -> None:
    bare = space.bare(space.rows)
    torch.testing.assert_close(bare, space.rows[:, :-1] / space.rows[:, :-1].norm(dim=1, keepdim=True))


def test_a_run_tells_a_head_from_others(space: ClassSpace) -> None:
    """Another weight, another bias, another name: another fingerprint."""
    weight, bias, names = space.rows[:, :-1], space.rows[:, -1], list(space.names)
    assert space.described() == named_head(weight, bias, names).described()
    moved = weight.clone()
    moved[3, 2] += 0.01
    others = [(moved, bias, names), (weight, bias + 0.01, names), (weight, bias, [*names[:-1], "stork"])]
    fingerprints = {named_head(*other).described()["head"] for other in others}
    assert len(fingerprints | {space.described()["head"]}) == 4


def test_a_classifier_takes_names_and_neither_templates_nor_scenery(photos: Explainer) -> None:
    with pytest.raises(InputError, match="templates are for texts"):
        photos.explain(NOISE, "tiger cat", templates="templates-general")
    with pytest.raises(InputError, match="background is for texts"):
        photos.explain(NOISE, "tiger cat", background="background")
    with pytest.raises(InputError, match="target itself"):
        photos.explain(NOISE, "tabby", ["tabby cat"])


def test_the_bias_is_in_the_scores_and_a_group_has_its_mean_logit(photos: Explainer) -> None:
    cats = ["tiger cat", "Egyptian cat", "tabby"]
    single = photos.explain(NOISE, cats[0], cats[1:])
    group = photos.explain(NOISE, cats, ["lynx"])
    assert group.similarities[group.target] == pytest.approx(np.mean(list(single.similarities.values())), rel=1e-5)
    assert group.probabilities[group.target] == pytest.approx(sum(single.probabilities.values()), rel=1e-5)
    row, embedding = classes_of(photos).rows[classes_of(photos).index("lynx")], photos.encode(NOISE).embedding
    logit = float(row[:-1] @ embedding[:-1] + row[-1])
    assert group.similarities[group.contrasts[0]] == pytest.approx(logit, rel=1e-5)
