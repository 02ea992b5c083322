"""What tells two sets apart: statistics against scipy, scikit-learn and brute force; sets of drawn birds; runs."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from reference.folders import tree
from safetensors.torch import save_file
from scipy.stats import mannwhitneyu
from sklearn.metrics import roc_auc_score

import finercam_clip
from finercam_clip import InputError, models
from finercam_clip.aviary import drawing, world
from finercam_clip.cli import main
from finercam_clip.datasets import open_dataset
from finercam_clip.differences import candidates_of, embed_sides, is_embedded, sides_of
from finercam_clip.differences.candidates import Candidates
from finercam_clip.differences.ranking import PERMUTATIONS, Ranking, auroc_interval, rank
from finercam_clip.explainer import Explainer
from finercam_clip.options import Options
from finercam_clip.runs import Share, generate
from finercam_clip.traits import Trait

RED, BLUE, YELLOW = (f"a bird with a {colour} crown" for colour in ("red", "blue", "yellow"))
CROWNS = [Trait(one, one, tuple(x for x in (RED, BLUE, YELLOW) if x != one)) for one in (RED, BLUE, YELLOW)]
TAILS = [
    Trait(f"{one} tail", f"a bird with a {one} tail", tuple(f"a bird with a {x} tail" for x in COLOURS if x != one))
    for COLOURS in [("red", "blue", "green")]
    for one in COLOURS
]
SETTINGS: dict[str, Any] = {"batch": 4, "shard_size": 5, "threads": 1}


def alone(count: int) -> NDArray[np.int64]:
    """No text is kin of another."""
    return np.arange(count)


def noise(seed: int, *shape: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=shape)


# ---------------------------------------------------------------------------------------------------------- statistics


def test_area_p_and_effect_are_those_of_scikit_learn_scipy_and_the_textbook() -> None:
    a, b = noise(0, 15, 4) + np.array([0, 1, -0.5, 3]), noise(1, 22, 4).round(1)
    ranking = rank(a, b, alone(4), most=4)
    labels = np.repeat([1, 0], [15, 22])
    for i in range(4):
        assert ranking.auroc[i] == pytest.approx(roc_auc_score(labels, np.concatenate([a[:, i], b[:, i]])))
        assert ranking.p[i] == pytest.approx(mannwhitneyu(a[:, i], b[:, i]).pvalue)
        pooled = (14 * a[:, i].var(ddof=1) + 21 * b[:, i].var(ddof=1)) / 35
        assert ranking.effect[i] == pytest.approx((a[:, i].mean() - b[:, i].mean()) / pooled**0.5)
    order = np.argsort(ranking.p)
    by_hand = np.minimum.accumulate((ranking.p[order] * 4 / np.arange(1, 5))[::-1])[::-1]  # Benjamini and Hochberg 1995
    np.testing.assert_allclose(ranking.corrected[order], by_hand.clip(max=1))


@pytest.mark.parametrize(("shift", "sizes"), [(0.0, (8, 12)), (1.0, (20, 20)), (2.5, (30, 10))])
def test_intervals_hold_the_true_area_as_often_as_they_say(shift: float, sizes: tuple[int, int]) -> None:
    from scipy.stats import norm

    true, draws = norm.cdf(shift / 2**0.5), 1500
    a, b = noise(2, sizes[0], draws) + shift, noise(3, sizes[1], draws)
    ranking = rank(a, b, alone(draws), most=0)
    covered = (ranking.low <= true) & (true <= ranking.high)
    assert covered.mean() >= 0.93
    assert (ranking.low <= ranking.auroc).all()
    assert (ranking.auroc <= ranking.high).all()


def test_an_area_of_one_has_an_interval_that_narrows_with_more_images() -> None:
    widths = []
    for images in (4, 20, 100):
        low, high = auroc_interval(np.array([1.0, 0.0]), images, images)
        assert high[0] == pytest.approx(1)
        assert low[1] == pytest.approx(0)
        widths.append(1 - low[0])
        assert high[1] == pytest.approx(widths[-1], abs=1e-6)
    assert widths[0] > widths[1] > widths[2] > 0


def test_chance_is_the_share_of_all_permutations_whose_best_text_does_as_well() -> None:
    scores = noise(4, 8, 3) + np.outer(np.arange(8) < 4, [2.0, 0.5, 0])
    ranking = rank(scores[:4], scores[4:], alone(3), most=0)
    areas = []
    for chosen in itertools.combinations(range(8), 4):
        labels = np.isin(np.arange(8), chosen)
        areas.append([abs(roc_auc_score(labels, scores[:, i]) - 0.5) for i in range(3)])
    best = np.max(areas, 1)
    for i in range(3):
        exact = np.mean(best >= abs(ranking.auroc[i] - 0.5) - 1e-9)
        assert ranking.chance[i] == pytest.approx(exact, abs=4 * (exact / PERMUTATIONS) ** 0.5 + 1 / PERMUTATIONS)


def test_sets_of_the_same_kind_are_not_told_apart() -> None:
    found = [rank(noise(s, 30, 50), noise(1000 + s, 30, 50), alone(50), most=5) for s in range(30)]
    assert sum(ranking.sure.any() for ranking in found) <= 5  # 5 % of 30 and less; 6 or more: p 0.003
    assert all(ranking.new == 0 for ranking in found if ranking.by_chance > 0.05)


def _crown_and_tail(seed: int = 5) -> Ranking:
    """Columns: a difference, another one, the first in other words, the first turned round, noise."""
    rng = np.random.default_rng(seed)
    sets = []
    for sign in (1, -1):
        crown, tail = 2 * sign + rng.normal(size=60), 1.5 * sign + rng.normal(size=60)
        same = crown + 0.3 * rng.normal(size=60)
        sets.append(np.stack([crown, tail, same, -crown + 0.3 * rng.normal(size=60), rng.normal(size=60)], 1))
    return rank(sets[0], sets[1], alone(5), most=5)


def test_what_varies_on_its_own_is_new_and_what_follows_is_not() -> None:
    ranking = _crown_and_tail()
    assert ranking.order[:2].tolist() == [0, 1]
    assert ranking.new == 2
    assert ranking.said[0] == 0
    assert ranking.said[1] < 0.3
    assert (ranking.said[[2, 3]] > 0.8).all()
    assert ranking.sure.tolist() == [True, True, True, True, False]


def test_values_of_one_thing_are_new_once() -> None:
    a, b = noise(6, 150, 3) + np.array([2, -2, 1]), noise(7, 150, 3)
    assert rank(a, b, alone(3), most=3).new == 3
    ranking = rank(a, b, np.array([0, 0, 2]), most=3)
    assert ranking.new == 2
    assert sorted(ranking.order[:2].tolist()) != [0, 1]


def test_texts_of_one_score_for_all_images_are_no_matter() -> None:
    a, b = np.zeros((5, 2)), np.zeros((5, 2))
    a[:, 1] = 1
    ranking = rank(a, b, alone(2), most=2)
    assert (ranking.auroc[0], ranking.p[0], ranking.effect[0]) == (0.5, 1.0, 0.0)
    assert ranking.auroc[1] == 1
    assert all(np.isfinite(getattr(ranking, name)).all() for name in ("effect", "chance", "said", "low", "high"))


# -------------------------------------------------------------------------------------------------------------- scores


def _candidates(explainer: Explainer, concepts: Any, template: Any = None) -> Candidates:
    return candidates_of(explainer.loaded.space, concepts, template, Options())


def test_a_score_is_the_lead_over_the_strongest_contrast(bundled: Explainer) -> None:
    encoding = bundled.encode(np.asarray(drawing.draw(world.Bird(_values("red")), 3, size=96).image))
    candidates = _candidates(bundled, [*CROWNS, *TAILS, "a bird"])
    scores = candidates.scores(encoding.embedding.numpy()[None])[0]
    for text, trait in enumerate([*CROWNS, *TAILS]):
        answer = encoding.explain(trait.target, trait.contrasts)
        others = [answer.similarities[str(contrast)] for contrast in trait.contrasts]
        lead = bundled.loaded.space.scale * (answer.similarities[str(trait.target)] - max(others))
        assert scores[text] == pytest.approx(lead, abs=1e-3)
        np.testing.assert_allclose(encoding.answer(candidates.question(text)).grid, answer.grid, atol=1e-4)
    assert candidates.kin.tolist() == [0, 0, 0, 3, 3, 3, 6]


def test_texts_without_contrasts_are_told_apart_from_the_mean_of_all(bundled: Explainer) -> None:
    candidates = _candidates(bundled, [RED, BLUE, "a bird with a green tail"])
    embeddings = np.stack([bundled.embed([RED])[0].numpy(), bundled.embed(["a bird"])[0].numpy()])
    cosines = embeddings @ bundled.embed([RED, BLUE, "a bird with a green tail"]).numpy().T
    expected = bundled.loaded.space.scale * (cosines - cosines.mean(1, keepdims=True))
    np.testing.assert_allclose(candidates.scores(embeddings), expected, atol=1e-3)
    assert candidates.question(0).labels == [RED, "the mean of all texts"]


def test_the_texts_of_a_template_are_each_others_contrasts(bundled: Explainer) -> None:
    candidates = _candidates(bundled, ["red", "blue", "green"], ["a bird with a {} crown", "a bird with a {} tail"])
    assert candidates.names[4] == "a bird with a blue tail"
    assert candidates.contrasts[4] == (3, 5)
    assert candidates.kin.tolist() == [0, 0, 0, 3, 3, 3]


# ---------------------------------------------------------------------------------------------------------------- sets


def _values(colour: str, seed: int = 0) -> tuple[str, ...]:
    return world.sample_bird(np.random.default_rng((seed, 12))).with_trait("crown", colour).values


@pytest.fixture(scope="module")
def two_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """red/ and blue/: ten birds each, whose crown is red or blue and everything else random."""
    root = tmp_path_factory.mktemp("sets")
    for side, colour in enumerate(("red", "blue")):
        (root / colour).mkdir()
        for i in range(10):
            bird = world.Bird(_values(colour, 100 * side + i))
            Image.fromarray(drawing.draw(bird, 100 * side + i, size=160, masks=False).image).save(
                root / colour / f"{i:02}.png"
            )
    return root


@pytest.fixture(scope="module")
def found(two_sets: Path, bundled: Explainer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("found") / "out"
    return finercam_clip.differ(bundled, two_sets / "red", two_sets / "blue", [*TAILS, *CROWNS], output=folder), folder


def test_birds_that_differ_in_their_crown_are_told_apart_by_it_and_there(found: tuple[Any, Path]) -> None:
    differences, _ = found
    first = differences.rows[0]
    assert first.text in (RED, BLUE)
    assert first.more_in == ("red" if first.text == RED else "blue")
    assert first.instead == (BLUE if first.text == RED else RED)
    assert first.sure
    assert first.auroc > 0.95
    assert first.corrected < 0.01
    assert sum(row.new for row in differences.rows) == 1
    assert differences.by_chance < 0.01
    place = differences.places[0]
    shown = place.a if first.more_in == "red" else place.b
    number = 0 if first.more_in == "red" else 100
    on_crown = []
    for one in shown:
        seed = number + int(one.name.split(".")[0])
        mask = drawing.draw(world.Bird(_values(first.more_in, seed)), seed, size=160).masks[0]["crown"]
        assert one.peak is not None
        on_crown.append(mask[one.peak[1], one.peak[0]])
    assert sum(on_crown) >= 2
    leads = [one.score for one in shown]
    assert leads == sorted(leads, reverse=True)


def test_the_files_say_the_same(found: tuple[Any, Path]) -> None:
    differences, folder = found
    assert {"differ.csv", "differ.png", "index.html", "pictures/1.png"} <= set(tree(folder))
    with (folder / "differ.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == [row.text for row in differences.rows]
    assert float(rows[0]["auroc"]) == pytest.approx(differences.rows[0].auroc, rel=1e-5)
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert all(row.text in page for row in differences.rows)
    assert page.count("<section>") == len(differences.places) == 3
    assert "@" not in page


def test_a_text_cannot_break_out_of_the_page(two_sets: Path, bundled: Explainer, tmp_path: Path) -> None:
    named = [Trait("@ROWS@ <script>", RED, (BLUE,)), Trait("b", BLUE, (RED,))]
    differences = finercam_clip.differ(bundled, two_sets / "red", two_sets / "blue", named)
    object.__setattr__(differences, "names", ("@ROWS@<script>", "blue"))
    object.__setattr__(differences, "rows", tuple(row for row in differences.rows if row.more_in == "blue"))
    page = differences.save(tmp_path / "page").read_text(encoding="utf-8")
    assert "<script>" not in page
    assert "@ROWS@&lt;script&gt;" in page


def test_another_list_of_texts_needs_no_image_encoded_again(
    found: tuple[Any, Path], two_sets: Path, bundled: Explainer
) -> None:
    sides = sides_of(two_sets / "red", two_sets / "blue")
    assert embed_sides(bundled, sides, found[1], Options()).computed == 0


def test_two_processes_and_a_killed_one_make_the_bytes_of_one(
    two_sets: Path, bundled: Explainer, tmp_path: Path
) -> None:
    sides = sides_of(two_sets / "red", two_sets / "blue")
    embed_sides(bundled, sides, tmp_path / "one", Options(), **SETTINGS)
    for index in (1, 0):
        assert not is_embedded(tmp_path / "two")
        embed_sides(bundled, sides, tmp_path / "two", Options(), share=Share(index, 2), **SETTINGS)
    assert is_embedded(tmp_path / "two")
    assert tree(tmp_path / "two") == tree(tmp_path / "one")
    whole = tree(tmp_path / "one")
    (tmp_path / "one" / "a" / "maps" / "part-000001.parquet").unlink()
    assert not is_embedded(tmp_path / "one")
    assert embed_sides(bundled, sides, tmp_path / "one", Options(), **SETTINGS).computed == 5
    assert tree(tmp_path / "one") == whole


@pytest.mark.slow
def test_lists_of_images_and_classes_of_one_data_set_are_sets(two_sets: Path, bundled: Explainer) -> None:
    a = [np.asarray(Image.open(path)) for path in sorted((two_sets / "red").iterdir())]
    b = sorted((two_sets / "blue").iterdir())
    listed = finercam_clip.differ(bundled, a, b, CROWNS)
    classes = finercam_clip.differ(bundled, f"{two_sets}:red", f"{two_sets}:blue", CROWNS)
    assert listed.names == ("A", "B")
    assert classes.names == ("red", "blue")
    for one, other in zip(sorted(listed.rows, key=lambda r: r.text), sorted(classes.rows, key=lambda r: r.text)):  # noqa: B905
        assert one.auroc == pytest.approx(other.auroc)
    assert not listed.notes


def test_few_images_and_the_same_images_are_said(two_sets: Path, bundled: Explainer) -> None:
    images = sorted((two_sets / "red").iterdir())
    differences = finercam_clip.differ(bundled, images[:4], images[2:7], CROWNS)
    assert sum("only" in note for note in differences.notes) == 2
    assert any("2 pictures are in both sets" in note for note in differences.notes)
    assert any("chance" in note for note in differences.notes)
    assert "No text tells" in differences.headline()


# ---------------------------------------------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def classifier(bundled: Explainer, tmp_path_factory: pytest.TempPathFactory) -> Explainer:
    """The bundled model with a head that takes red birds with a spotted breast for blue ones."""
    names = ["red", "blue"]
    red, blue = bundled.embed([RED, BLUE])
    spotted, plain = bundled.embed(["a bird with a spotted breast", "a bird with a plain breast"])
    weight = 70 * torch.stack([red - 2 * (spotted - plain), blue])
    path = tmp_path_factory.mktemp("head") / "head.safetensors"
    save_file({"weight": weight, "bias": torch.zeros(2)}, path)
    return models.with_head(bundled, path, names)


@pytest.fixture(scope="module")
def run(two_sets: Path, classifier: Explainer, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run") / "run"
    generate(classifier, open_dataset(two_sets), folder)
    return str(folder)


def test_right_and_wrong_answers_of_a_run_are_sets(run: str) -> None:
    right, wrong = sides_of(f"{run}:correct", f"{run}:wrong")
    names = [{item.name for item in side.dataset.items} for side in (right, wrong)]
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) == 20
    taken, kept = sides_of(f"{run}:red>blue", f"{run}:red>red")
    assert {item.name for item in taken.dataset.items} <= names[1]
    assert {item.name for item in kept.dataset.items} <= names[0]
    assert all(item.path.exists() for side in (taken, kept) for item in side.dataset.items)


@pytest.mark.usefixtures("bundled_once")
def test_one_command_from_a_confused_pair_to_why(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.yaml").write_text(
        "spotted: {target: a bird with a spotted breast, contrasts: [a bird with a plain breast]}\n"
        "plain: {target: a bird with a plain breast, contrasts: [a bird with a spotted breast]}\n"
        "tail: {target: a bird with a red tail, contrasts: [a bird with a blue tail]}\n"
    )
    output = tmp_path / "why"
    assert main(["differ", f"{run}:confused", "--concepts", str(tmp_path / "t.yaml"), "--output", str(output)]) == 0
    out = capsys.readouterr().out
    assert "confused  red taken for blue" in out
    first = (output / "1" / "differ.csv").read_text().splitlines()[1]
    assert "breast" in first


@pytest.mark.slow
def test_a_classifiers_own_classes_are_the_texts_by_default(
    classifier: Explainer, bundled: Explainer, two_sets: Path
) -> None:
    differences = finercam_clip.differ(classifier, two_sets / "red", two_sets / "blue")
    assert {row.text for row in differences.rows} == {"red", "blue"}
    with pytest.raises(InputError, match="which texts"):
        finercam_clip.differ(bundled, two_sets / "red", two_sets / "blue")


# ------------------------------------------------------------------------------------------------------------- mistakes

WRONG: dict[str, tuple[list[str], str]] = {
    "one set": (["{sets}/red"], "two sets"),
    "a class that is none": (["{sets}:red", "{sets}:green"], "green"),
    "an empty place": (["{sets}/red", "{sets}/nowhere"], "no such"),
    "a run without a set": (["{run}", "{run}:wrong"], "say which of its images"),
    "a set that a run does not have": (["{run}:right", "{run}:wrong"], "'right'"),
    "an unknown word": (["{sets}/red", "{sets}/blue", "--concepts", "everyday"], "cannot be asked about"),
    "among the images": (["{sets}", "{sets}/blue", "--output", "{sets}/out"], "within the data set"),
    "a template without a place": (["{sets}/red", "{sets}/blue", "--template", "wings"], "must hold '{}'"),
}


@pytest.mark.parametrize(("words", "message"), WRONG.values(), ids=WRONG)
@pytest.mark.usefixtures("bundled_once")
def test_mistakes_are_one_line_and_nothing_is_written(
    words: list[str],
    message: str,
    two_sets: Path,
    run: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = tree(two_sets)
    words = [word.replace("{sets}", str(two_sets)).replace("{run}", run) for word in words]
    for name, value in (("--concepts", "aviary"), ("--output", str(tmp_path / "out"))):
        words += [] if name in words else [name, value]
    assert main(["differ", *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
    assert not (tmp_path / "out").exists()
    assert tree(two_sets) == before


def test_a_set_of_one_image_is_refused(two_sets: Path, bundled: Explainer) -> None:
    images = sorted((two_sets / "red").iterdir())
    with pytest.raises(InputError, match="at least 2"):
        finercam_clip.differ(bundled, images[:1], images[1:5], CROWNS)
    with pytest.raises(InputError, match="twice"):
        finercam_clip.differ(bundled, [images[0], images[0]], images[1:5], CROWNS)
