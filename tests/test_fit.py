"""Heads that are fitted: their predictions come back from the file, and no feature is computed twice."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference.classifiers import classes_of, head_file
from reference.folders import UNREADABLE, draw_birds, draw_species
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

import finercam_clip
from finercam_clip import fitting
from finercam_clip.cli import main
from finercam_clip.datasets import open_dataset
from finercam_clip.errors import InputError, UnfinishedError
from finercam_clip.evaluation.intervals import share
from finercam_clip.explainer import Explainer
from finercam_clip.fitting import features, fit, planned, regression
from finercam_clip.fitting.features import features_of
from finercam_clip.models import load_backbone, with_head
from finercam_clip.models.heads import read_head, read_notes
from finercam_clip.towers import Tower

SPECIES = ("001.Species_A", "002.Species_B", "003.Species_C")
CROPS = Path(__file__).parents[2] / "shared" / "data" / "cub-crops"


@pytest.fixture(scope="module")
def species(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three species, four pictures of each in train/ and three in test/."""
    return draw_species(tmp_path_factory.mktemp("species"))


@pytest.fixture(scope="module")
def resnet() -> Explainer:
    """At random weights, which are the same every time."""
    return load_backbone("resnet18", pretrained="random")


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images went through a tower in each batch."""
    batches: list[int] = []
    own = Tower.features

    def counted(self: Tower, pixels: Tensor, pooling: str = "model") -> Tensor:
        batches.append(len(pixels))
        return own(self, pixels, pooling)

    monkeypatch.setattr(Tower, "features", counted)
    return batches


def _features(explainer: Explainer, data: Path, folder: Path, split: str, size: int | None) -> tuple[Any, list[int]]:
    """The features and the classes of a split."""
    dataset = open_dataset(data)
    items = dataset.split(split).items
    rows = features_of(explainer, items, folder, size, 4).of(items).numpy()
    return rows, [dataset.classes.index(str(item.target)) for item in items]


# ------------------------------------------------------------------------------------------------- there and back again


def test_a_head_comes_back_with_its_backbone_size_and_names(species: Path, tmp_path: Path, resnet: Explainer) -> None:
    fitted = fit(resnet, species, tmp_path / "head.safetensors", image_size=96)
    assert fitted.classes == SPECIES
    assert (fitted.fitted, fitted.measured, fitted.computed) == (12, 9, 21)
    explainer = finercam_clip.load_classifier(head=fitted.head)
    assert (explainer.loaded.name, explainer.loaded.pretrained) == ("resnet18", "random")
    assert classes_of(explainer).names == SPECIES
    encodings = {item.name: explainer.encode(item.path) for item in open_dataset(species).split("test").items}
    assert {encoding.forward.size for encoding in encodings.values()} == {(96, 96)}
    assert fitted.predicted == {name: next(iter(encoding.predictions(1))) for name, encoding in encodings.items()}
    hits = [name.split("/")[1] == predicted for name, predicted in fitted.predicted.items()]
    assert fitted.accuracy[0] == np.mean(hits)
    assert explainer.explain(species / next(iter(encodings)), "Species A", 2).heatmap.shape == (96, 96)


def test_a_head_on_a_clip_is_directions_beside_its_texts(species: Path, tmp_path: Path, bundled: Explainer) -> None:
    fitted = fit(bundled, species, tmp_path / "head.safetensors")
    assert fitted.accuracy[0] > 0.5
    explainer = finercam_clip.load_classifier(head=fitted.head)
    image = species / next(iter(fitted.predicted))
    encoding, clip = explainer.encode(image), bundled.encode(image)
    assert fitted.predicted == {
        name: next(iter(explainer.encode(species / name).predictions(1))) for name in fitted.predicted
    }
    weight, bias = read_head(fitted.head)
    assert not bias.any()
    explanation = encoding.explain("Species A", ["Species B"], objective="finer", gamma=1)
    assert explanation.similarities[SPECIES[0]] == pytest.approx(float(weight[0] @ clip.embedding), abs=1e-4)
    assert sum(encoding.predictions(3).values()) == pytest.approx(1)
    expected = clip.heatmaps((weight[0] - weight[1])[None])[0] / float(bundled.loaded.space.scale)
    np.testing.assert_allclose(explanation.grid, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())
    nearest = encoding.explain("Species A", 1, similar_by="concepts").contrasts[0]
    bare = weight / weight.norm(dim=1, keepdim=True)
    assert nearest == SPECIES[1 + int((bare[1:] @ bare[0]).argmax())]


def test_a_pooling_comes_back(species: Path, tmp_path: Path, shallow: Callable[[dict[str, Any]], None]) -> None:
    shallow({"depth": 1})
    backbone = load_backbone("vit_tiny_patch16_224", pretrained="random", pooling="mean")
    fitted = fit(backbone, species, tmp_path / "head.safetensors", image_size=64)
    explainer = finercam_clip.load_classifier(head=fitted.head)
    assert explainer.loaded.tower.visual.trunk.global_pool == "avg"
    named = finercam_clip.load_classifier("vit_tiny_patch16_224", fitted.head, pooling="mean")
    assert named.loaded.described() == explainer.loaded.described()
    with pytest.raises(InputError, match="pooling 'mean', not 'token'"):
        finercam_clip.load_classifier(head=fitted.head, pooling="token")


def test_a_backbone_without_a_head_of_its_own_is_named(
    species: Path, tmp_path: Path, shallow: Callable[[dict[str, Any]], None]
) -> None:
    shallow({"depth": 1})
    backbone = load_backbone("vit_small_patch14_dinov2", pretrained="random")
    assert classes_of(backbone).names == ("?",)
    fitted = fit(backbone, species, tmp_path / "head.safetensors", image_size=56)
    assert read_notes(fitted.head) == read_notes(shutil.copy(fitted.head, tmp_path / "copy.safetensors"))
    assert finercam_clip.load_classifier(head=fitted.head).loaded.preprocess.size == (56, 56)


def test_a_head_on_a_fitted_heads_model_keeps_its_size(species: Path, tmp_path: Path, resnet: Explainer) -> None:
    first = fit(resnet, species, tmp_path / "first.safetensors", image_size=96)
    again = fit(finercam_clip.load_classifier(head=first.head), species, tmp_path / "again.safetensors")
    assert again.predicted == first.predicted
    assert finercam_clip.load_classifier(head=again.head).loaded.preprocess.size == (96, 96)


def test_a_model_in_memory_takes_its_head(species: Path, tmp_path: Path, tiny: Explainer) -> None:
    here = Explainer(replace(tiny.loaded, pretrained="in memory"))
    fitted = fit(here, species, tmp_path / "head.safetensors")
    explainer = with_head(here, fitted.head)
    assert fitted.predicted == {
        name: next(iter(explainer.encode(species / name).predictions(1))) for name in fitted.predicted
    }
    assert here.loaded.space.names == (), "the model itself stays as it is"
    with pytest.raises(InputError, match=r"with_head"):
        finercam_clip.load_classifier(head=fitted.head)


def test_names_of_ones_own_take_the_place_of_those_in_the_file(
    species: Path, tmp_path: Path, resnet: Explainer
) -> None:
    fitted = fit(resnet, species, tmp_path / "head.safetensors")
    explainer = finercam_clip.load_classifier(head=fitted.head, classes=["a", "b", "c"])
    assert classes_of(explainer).names == ("a", "b", "c")


# -------------------------------------------------------------------------------------------------- scikit-learn itself


@pytest.mark.parametrize("count", [2, 3])
def test_the_head_is_scikit_learns_on_standardised_features(
    species: Path, tmp_path: Path, resnet: Explainer, count: int
) -> None:
    data = tmp_path / "data"
    for split in ("train", "test"):
        for name in SPECIES[:count]:
            shutil.copytree(species / split / name, data / split / name)
    fitted = fit(resnet, data, tmp_path / "head.safetensors", image_size=96, strength=0.1)
    assert fitted.strength == 0.1
    train, labels = _features(resnet, data, fitted.features, "train", 96)
    test, answers = _features(resnet, data, fitted.features, "test", 96)
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)).fit(train, labels)
    weight, bias = (tensor.numpy() for tensor in read_head(fitted.head))
    chances = torch.from_numpy(test @ weight.T + bias).softmax(1).numpy()
    np.testing.assert_allclose(chances, reference.predict_proba(test), atol=1e-4)
    assert fitted.accuracy[0] == reference.score(test, answers)


def test_c_is_the_best_of_a_cross_validation_on_the_images_that_are_fitted() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 40)
    rows = (rng.normal(size=(3, 30))[labels] + 3 * rng.normal(size=(120, 30))).astype(np.float32)
    *_, strength = regression.fitted(rows, labels, None, bias=True, seed=0)
    assert 1e-4 < strength < 1
    *_, other = regression.fitted((1000 * rows + 5).astype(np.float32), labels, None, bias=True, seed=0)
    assert other == strength, "features are standardised"


@pytest.mark.parametrize("noise", [0.05, 3.0])
def test_of_several_c_that_are_as_good_the_smallest_is_taken(noise: float) -> None:
    """By scikit-learn's own cross-validation: no worse than the best by more than its error, the next smaller C is."""
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(4), 40)
    rows = (rng.normal(size=(4, 10))[labels] + noise * rng.normal(size=(160, 10))).astype(np.float32)
    *_, strength = regression.fitted(rows, labels, None, bias=True, seed=0)
    losses = {}
    for each in regression.STRENGTHS:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=each, max_iter=5000, tol=1e-8))
        folds = StratifiedKFold(3, shuffle=True, random_state=0)
        chances = cross_val_predict(model, rows, labels, cv=folds, method="predict_proba")
        losses[each] = -np.log(chances[np.arange(160), labels])
    best = min(losses.values(), key=np.mean)
    allowed = best.mean() + best.std() / np.sqrt(160)
    at = regression.STRENGTHS.index(strength)
    assert losses[strength].mean() <= allowed + 1e-3
    assert losses[regression.STRENGTHS[at - 1]].mean() > allowed - 1e-3


def test_a_feature_that_is_the_same_everywhere_counts_for_nothing() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 10)
    rows = rng.normal(size=(30, 5)).astype(np.float32)
    rows[:, 2] = 7
    for bias in (True, False):
        weight, offset, _ = regression.fitted(rows, labels, 1.0, bias=bias, seed=0)
        assert np.isfinite(weight).all()
        assert offset.any() == bias
        if bias:
            assert np.abs(weight[:, 2]).max() < 1e-6


def test_the_interval_of_a_share_is_wilsons() -> None:
    for right, count in ((0, 10), (10, 10), (7, 9), (300, 500)):
        p, z = right / count, 1.959963984540054
        middle = (p + z * z / (2 * count)) / (1 + z * z / count)
        half = z * np.sqrt(p * (1 - p) / count + z * z / (4 * count * count)) / (1 + z * z / count)
        hits = np.arange(count) < right
        assert share(hits) == pytest.approx((p, max(middle - half, 0), min(middle + half, 1)), abs=1e-12)


# -------------------------------------------------------------------------------------- features are computed only once


def test_the_second_fit_computes_nothing(species: Path, tmp_path: Path, resnet: Explainer, encoded: list[int]) -> None:
    first = fit(resnet, species, tmp_path / "head.safetensors", image_size=64)
    assert sum(encoded) == 21
    second = fit(resnet, species, tmp_path / "other.safetensors", image_size=64, features=first.features)
    assert (sum(encoded), second.computed) == (21, 0)
    assert first.head.read_bytes() == second.head.read_bytes()


def test_an_interrupted_fit_goes_on_where_it_was(
    species: Path, tmp_path: Path, resnet: Explainer, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit(resnet, species, tmp_path / "whole.safetensors", image_size=64, batch=4)
    encoded.clear()
    own = features._encoded

    def stops(*arguments: Any) -> Tensor:
        if sum(encoded) >= 12:
            raise KeyboardInterrupt
        return own(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(features, "_encoded", stops)
        with pytest.raises(KeyboardInterrupt):
            fit(resnet, species, tmp_path / "head.safetensors", image_size=64, batch=4)
    assert not (tmp_path / "head.safetensors").exists()
    resumed = fit(resnet, species, tmp_path / "head.safetensors", image_size=64, batch=4)
    assert (sum(encoded), resumed.computed) == (21, 9)
    assert resumed.predicted == whole.predicted
    assert resumed.head.read_bytes() == whole.head.read_bytes()


def test_a_full_disk_stops_the_fit_and_keeps_what_is_done(
    species: Path, tmp_path: Path, resnet: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = features.write_whole

    def full(path: Path, data: bytes) -> Path:
        if path.name == "00002.safetensors":
            raise InputError(f"{path} cannot be written: No space left on device")
        return own(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(features, "write_whole", full)
        with pytest.raises(UnfinishedError, match="No space left on device; features that are done stay"):
            fit(resnet, species, tmp_path / "head.safetensors", image_size=64, batch=4)
    assert fit(resnet, species, tmp_path / "head.safetensors", image_size=64, batch=4).computed == 21 - 8


def test_features_belong_to_the_content_of_an_image(
    species: Path, tmp_path: Path, resnet: Explainer, encoded: list[int]
) -> None:
    data = shutil.copytree(species, tmp_path / "data")
    options: dict[str, Any] = {"image_size": 64, "features": tmp_path / "features"}
    fit(resnet, data, tmp_path / "head.safetensors", **options)
    data = data.rename(tmp_path / "moved")
    image, other = data / "train" / SPECIES[0] / "00000.png", data / "train" / SPECIES[0] / "00001.png"
    os.utime(image)
    other.rename(other.with_name("renamed.png"))
    assert fit(resnet, data, tmp_path / "head.safetensors", **options).computed == 0
    shutil.copy(data / "train" / SPECIES[1] / "00000.png", image)  # it was computed under another name
    assert fit(resnet, data, tmp_path / "head.safetensors", **options).computed == 0
    draw = draw_species(tmp_path / "more", train=6, test=0, species=1)
    shutil.copy(next(draw.glob("*/00005.png")), image)
    with pytest.warns(UserWarning, match="1 images are among those"):
        assert fit(resnet, data, tmp_path / "head.safetensors", **options).computed == 0, "it is a test picture"
    image.write_bytes(next((tmp_path / "more").glob("*/00005.png")).read_bytes() + b" ")
    assert fit(resnet, data, tmp_path / "head.safetensors", **options).computed == 1
    assert sum(encoded) == 22


def test_another_model_or_size_has_features_of_its_own(
    species: Path, tmp_path: Path, resnet: Explainer, tiny: Explainer
) -> None:
    folder = tmp_path / "features"
    for explainer, size in ((resnet, 64), (resnet, 96), (tiny, None)):
        assert fit(explainer, species, tmp_path / "head.safetensors", image_size=size, features=folder).computed == 21
    assert fit(resnet, species, tmp_path / "head.safetensors", image_size=64, features=folder).computed == 0
    with torch.no_grad():
        other = load_backbone("resnet18", pretrained="random")
        other.loaded.tower.visual.trunk.conv1.weight.mul_(1.01)
    assert fit(other, species, tmp_path / "head.safetensors", image_size=64, features=folder).computed == 21


def test_a_damaged_file_of_features_is_computed_anew(species: Path, tmp_path: Path, resnet: Explainer) -> None:
    fitted = fit(resnet, species, tmp_path / "head.safetensors", image_size=64, batch=8)
    file, last = sorted(fitted.features.glob("*/*.safetensors"))[::2]
    file.write_bytes(file.read_bytes()[:200])
    tensors = load_file(last)
    save_file({"features": tensors["features"] * torch.nan}, last)
    again = fit(resnet, species, tmp_path / "again.safetensors", image_size=64, features=fitted.features)
    assert again.computed == 8 + 5
    assert again.predicted == fitted.predicted


def test_features_are_those_that_explanations_are_made_of(
    species: Path, tmp_path: Path, resnet: Explainer, tiny: Explainer
) -> None:
    items = open_dataset(species).items
    items = items[:5]
    for explainer, size in ((resnet, None), (resnet, 64), (tiny, None)):
        rows = features_of(explainer, items, tmp_path, size, 5).of(items)
        encodings = explainer.encode([item.path for item in items], image_size=size)
        embeddings = torch.stack([encoding.embedding for encoding in encodings])[:, : rows.shape[1]]
        torch.testing.assert_close(rows, embeddings, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------------------------------------- which images


def test_without_splits_a_share_is_held_out_and_told(tmp_path: Path, resnet: Explainer) -> None:
    data = draw_species(tmp_path / "data", train=5, test=0)
    plan = planned(open_dataset(data))
    assert "20% of each class of all images held out" in plan.words
    assert "seed 0" in plan.words
    assert [len(plan.fitted), len(plan.measured)] == [12, 3]
    assert len({item.target for item in plan.measured}) == 3
    assert not {item.name for item in plan.fitted} & {item.name for item in plan.measured}
    assert planned(open_dataset(data)) == plan
    assert any(planned(open_dataset(data), seed=seed).measured != plan.measured for seed in range(1, 5))
    greedy = planned(open_dataset(data), held_out=0.9)
    assert [len(greedy.fitted), len(greedy.measured)] == [6, 9], "two of each class stay"


def test_splits_are_respected_and_can_be_named(species: Path) -> None:
    dataset = open_dataset(species)
    plan = planned(dataset)
    assert {item.split for item in plan.fitted} == {"train"}
    assert {item.split for item in plan.measured} == {"test"}
    turned = planned(dataset, split="test", test="train")
    assert (turned.fitted, turned.measured) == (plan.measured, plan.fitted)
    assert {item.split for item in planned(dataset, held_out=0.25).measured} == {"train"}
    alone = planned(dataset.split("train"), held_out=0.25)
    assert (len(alone.fitted), len(alone.measured)) == (9, 3)


def test_an_image_in_both_splits_is_told(species: Path, tmp_path: Path, resnet: Explainer) -> None:
    data = shutil.copytree(species, tmp_path / "data")
    shutil.copy(data / "train" / SPECIES[0] / "00000.png", data / "test" / SPECIES[0] / "copy.png")
    with pytest.warns(UserWarning, match="1 images are among those"):
        fit(resnet, data, tmp_path / "head.safetensors", image_size=64)


# ------------------------------------------------------------------------------------------------------------ bad input


def _changed(species: Path, data: Path, name: str) -> Path:
    """A data set that something is wrong with."""
    shutil.copytree(species, data)
    if name == "single":
        for path in sorted((data / "train" / SPECIES[0]).iterdir())[1:]:
            path.unlink()
    elif name == "one class":
        for folder in data.glob("*/00[23]*"):
            shutil.rmtree(folder)
    elif name == "empty split":
        for path in (data / "test").rglob("*.png"):
            path.unlink()
    elif name == "no test":
        shutil.rmtree(data / "test")
    elif name == "unknown class":
        (data / "test" / SPECIES[2]).rename(data / "test" / "Another")
    elif name == "no class":
        shutil.copy(data / "train" / SPECIES[0] / "00000.png", data / "train")
    return data


MISTAKES: dict[str, tuple[str, list[str], str]] = {
    "a class of one image": ("single", [], "'001.Species_A' has a single image"),
    "one class": ("one class", [], "is the only class"),
    "an empty split": ("empty split", [], "the split 'test' of data is empty"),
    "no test split": ("no test", [], "has no split 'test' to be measured on"),
    "a class of the test split only": ("unknown class", [], "'Another' of the split 'test' has no image in 'train'"),
    "an image without a class": ("no class", [], "'train/00000.png' of data has no class"),
    "no such split": ("", ["--split", "training"], "has no split 'training'; its splits: test, train"),
    "no such test split": ("", ["--test", "valid"], "has no split 'valid'"),
    "the split itself": ("", ["--test", "train"], "'train' is what the head is fitted to"),
    "split and share": ("", ["--test", "test", "--held-out", "0.2"], "not both"),
    "a share of all": ("", ["--held-out", "1"], "between 0 and 1"),
    "no such backbone": ("", ["--classifier", "resnet_18"], "timm has no model 'resnet_18'"),
    "two backbones": ("", ["--model", "ViT-B-16"], "one backbone"),
    "pooling of a CNN": ("", ["--pooling", "mean"], "takes 'model' only"),
    "a size of no cells": ("", ["--classifier", "vit_tiny_patch16_224", "--image-size", "100"], "multiples of 16"),
    "C": ("", ["--C", "0"], "a number above 0"),
    "batch": ("", ["--batch", "0"], "batch is a number from 1 up"),
    "seed": ("", ["--seed", "-1"], "the seed is a number from 0"),
    "another format": ("", ["--output", "head.pth"], "ends in .safetensors"),
    "no such folder": ("", ["--output", "nowhere/head.safetensors"], "there is no folder nowhere"),
    "a folder": ("", ["--output", "folder.safetensors"], "is a folder"),
    "over the backbone's weights": ("", ["--pretrained", "weights.safetensors"], "never overwritten"),
    "features among the images": ("", ["--features", "data/features"], "within the data set"),
    "features in a file": ("", ["--features", "a-file"], "is no folder"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_in_a_line_before_anything_is_computed(
    mistake: str,
    species: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    resnet: Explainer,
) -> None:
    change, words, line = MISTAKES[mistake]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fitting, "features_of", lambda *_: pytest.fail("a feature was computed"))
    _changed(species, Path("data"), change)
    Path("folder.safetensors").mkdir()
    Path("a-file").touch()
    save_file(resnet.loaded.tower.visual.trunk.state_dict(), "weights.safetensors")
    arguments = {"--classifier": "resnet18", "--output": "head.safetensors", "--pretrained": "random"}
    arguments |= dict(zip(words[::2], words[1::2], strict=True))
    if "weights.safetensors" in words:
        arguments["--output"] = "weights.safetensors"
    before = sorted(tmp_path.rglob("*"))
    assert main(["fit", "data", *(word for pair in arguments.items() for word in pair), "--quiet"]) == 2
    captured = capsys.readouterr()
    errors = [text for text in captured.err.splitlines() if "RANDOM" not in text]
    assert len(errors) == 1
    assert line in errors[0]
    assert captured.out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_without_write_permission_is_told(species: Path, tmp_path: Path, resnet: Explainer) -> None:
    place = tmp_path / "locked"
    place.mkdir(mode=0o500)
    if os.access(place, os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(InputError, match="no permission"):
        fit(resnet, species, place / "head.safetensors")


def test_scikit_learn_that_is_missing_is_told(
    species: Path, tmp_path: Path, resnet: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regression, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'finercam_clip\[fit\]'"):
        fit(resnet, species, tmp_path / "head.safetensors")


def test_images_that_cannot_be_read_are_left_out_and_told(tmp_path: Path, resnet: Explainer) -> None:
    data = draw_birds(tmp_path / "data")
    for folder in (data / "train").iterdir():
        shutil.copy(next(folder.glob("*.png")), folder / "again.png")
        (folder / "again.png").write_bytes((folder / "again.png").read_bytes() + b" ")
    fitted = fit(resnet, data, tmp_path / "head.safetensors", image_size=64)
    assert set(fitted.unreadable) == set(UNREADABLE)
    assert fitted.measured == 8
    for path in (data / "train").rglob("again.png"):
        path.write_bytes(b"no image")
    with pytest.raises(InputError, match="fewer than two images can be read"):
        fit(resnet, data, tmp_path / "head.safetensors", image_size=64)


def test_a_head_is_refused_by_other_weights_and_other_models(
    species: Path, tmp_path: Path, resnet: Explainer, tiny: Explainer, bundled: Explainer
) -> None:
    fitted = fit(resnet, species, tmp_path / "head.safetensors", image_size=64)
    checkpoint = tmp_path / "weights.safetensors"
    weights = load_backbone("resnet18", pretrained="random").loaded.tower.visual.trunk.state_dict()
    save_file({name: tensor * 1.5 for name, tensor in weights.items()}, checkpoint)
    with pytest.raises(InputError, match="with other weights"):
        finercam_clip.load_classifier(head=fitted.head, pretrained=checkpoint)
    with pytest.raises(InputError, match="classifier's backbone, tiny is the image tower of a CLIP"):
        with_head(tiny, fitted.head)
    on_clip = fit(bundled, species, tmp_path / "clip.safetensors")
    with pytest.raises(InputError, match="fitted on the CLIP aviary, not on resnet18"):
        finercam_clip.load_classifier("resnet18", on_clip.head)
    with pytest.raises(InputError, match="reads 7 features"):
        with_head(tiny, head_file(tmp_path, 7))
    with pytest.raises(InputError, match="no place"):
        with_head(tiny, head_file(tmp_path, 32))


@pytest.mark.parametrize("notes", ["{", "[]", '{"classes": 1}', None])
def test_damaged_notes_are_told(species: Path, tmp_path: Path, resnet: Explainer, notes: str | None) -> None:
    path = tmp_path / "damaged.safetensors"
    tensors = {"weight": torch.ones(3, 512), "bias": torch.ones(3)}
    if notes is None:
        fitted = fit(resnet, species, tmp_path / "head.safetensors", image_size=64)
        values = json.loads(json.dumps(vars(read_notes(fitted.head))))
        notes = json.dumps(values | {"image_size": [0, 64]})
    save_file(tensors, path, {"head": notes})
    with pytest.raises(InputError, match="damaged"):
        finercam_clip.load_classifier(head=path)


# ---------------------------------------------------------------------------------------------------- the command


def test_the_command_tells_what_it_did_and_its_head_explains(
    species: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["fit", str(species), "--classifier", "resnet18", "--pretrained", "random", "--image-size", "64"]
    assert main([*words, "--output", "head.safetensors"]) == 0
    out = capsys.readouterr().out
    assert "head.safetensors: 3 classes" in out
    assert "12 fitted, 9 measured: fitted to the split train, measured on test" in out
    assert "head.features: 21 computed now" in out
    assert "95 % interval" in out
    assert "on 9 images" in out
    assert main([*words, "--output", "head.safetensors", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["computed"] == 0
    assert record["classes"] == list(SPECIES)
    image = str(species / "test" / SPECIES[0] / "00005.png")
    question = ["explain", image, "--head", "head.safetensors", "--target", "Species A", "--nearest", "1", "--json"]
    assert main(question) == 0
    assert json.loads(capsys.readouterr().out)["target"] == SPECIES[0]
    assert main(["generate", str(species / "test"), "--head", "head.safetensors", "--output", "run"]) == 0


@pytest.mark.slow
@pytest.mark.skipif(not CROPS.is_dir(), reason="the crops of CUB-200-2011 are not here")
def test_photographs_of_20_species(tmp_path: Path, photos: Explainer) -> None:
    """The official split of the first species. Features of 1,000 classes of ImageNet tell nine in ten of them apart."""
    dataset = open_dataset(CROPS)
    items = tuple(item for item in dataset.items if item.target in dataset.classes[:20])
    some = replace(dataset, items=items)
    fitted = fit(photos, some, tmp_path / "head.safetensors")
    assert fitted.classes == dataset.classes[:20]
    assert (fitted.fitted, fitted.measured) == tuple(
        sum(i.split == split for i in items) for split in ("train", "test")
    )
    assert fitted.accuracy[1] > 0.8
    assert fit(photos, some, tmp_path / "head.safetensors").computed == 0
