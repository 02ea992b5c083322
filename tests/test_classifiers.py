"""Classifiers: the head's own logits, and the grad-cam package's maps on the same weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pytorch_grad_cam import GradCAM, HiResCAM
from reference import grad_cam
from reference.classifiers import classes_of, head_file, photos_model, photos_predictions, randomised
from reference.models import maps
from reference.towers import check_alignment
from scipy.stats import spearmanr
from skimage import data
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn

import finercam_clip
from finercam_clip.cli import main
from finercam_clip.explainer import Explainer
from finercam_clip.models.heads import read_head

CHELSEA = data.chelsea()
CATS = ["tiger cat", "Egyptian cat", "tabby", "lynx"]

BACKBONES = {
    "vit_tiny_patch16_224": {"depth": 2},  # class token
    "vit_relpos_small_patch16_224": {"depth": 2},  # mean, norm after it
    "vit_small_patch14_dinov2": {"depth": 1, "num_classes": 5},
    "resnet18": {},  # a max pool on the way
    "tf_efficientnet_lite0": {},  # TensorFlow's padding
    "efficientnet_b1": {},  # 240 pixels: no multiple of the stride
    "mobilenetv3_small_100": {},  # layers after the pool
    "convnext_atto": {},
    "densenet121": {},
    "swin_tiny_patch4_window7_224": {"depths": (1, 1, 1, 1)},
}

QUICK = ("vit_tiny_patch16_224", "resnet18", "efficientnet_b1")


def _package(model: nn.Module, explainer: Explainer, pixels: Tensor, method: type, target: Any) -> NDArray[np.float32]:
    """The package's map for the plain timm model with its own classifier."""
    tower = explainer.loaded.tower
    grid = tower.grid((pixels.shape[2], pixels.shape[3]))
    places = {id(module): name for name, module in tower.visual.trunk.named_modules()}
    layer = model.get_submodule(places[id(tower.layers()[-1])])
    return grad_cam.map_of(method, model, layer, grad_cam.reshape_transform(tower.patches, grid), grid, pixels, target)


def _check_parity(explainer: Explainer, model: nn.Module, names: list[str], pixels: Tensor) -> None:
    encoding = explainer.encode(CHELSEA)
    target, *others = (classes_of(explainer).index(name) for name in names)
    for method, kind in (("gradcam", GradCAM), ("hirescam", HiResCAM)):
        ours = encoding.explain(names[0], method=method).grid
        theirs = _package(model, explainer, pixels, kind, grad_cam.plain(target))
        assert np.abs(grad_cam.positive(ours) - theirs).max() <= 1e-4, method
        upstream = {"method": method, "objective": "finer-softmax-upstream"}
        for count, alpha in ((1, 0.6), (len(others), 0.6), (len(others), 1.0)):
            # Upstream's p is a softmax over all classes; over its sum it is the one over the contrasts, slope and all.
            ours = encoding.explain(names[0], names[1 : 1 + count], gamma=alpha, **upstream).grid
            theirs = _package(model, explainer, pixels, kind, grad_cam.finer(target, others[:count], alpha))
            assert np.abs(grad_cam.positive(ours) - theirs).max() <= 1e-4, (method, count, alpha)


# ------------------------------------------------------------------------------------------------------------ backbones


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in BACKBONES]
)
def test_any_backbone_has_its_own_logits_and_the_packages_maps(
    name: str, tmp_path: Path, shallow: Callable[[dict[str, Any]], None]
) -> None:
    settings = BACKBONES[name]
    model, checkpoint = randomised(name, settings, tmp_path)
    shallow(settings)
    explainer = finercam_clip.load_classifier(name, pretrained=checkpoint)
    pixels = create_transform(**resolve_data_config({}, model=model))(Image.fromarray(CHELSEA))[None]
    torch.testing.assert_close(
        explainer.loaded.preprocess(Image.fromarray(CHELSEA))[0][None], pixels, atol=0.02, rtol=0
    )
    pixels = explainer.loaded.preprocess(Image.fromarray(CHELSEA))[0][None]
    indices = (3, 1, 4, 0)
    names = [classes_of(explainer).names[i] for i in indices]
    with torch.no_grad():
        logits = model(pixels)[0]
    explanation = explainer.explain(CHELSEA, names[0], names[1:])
    assert explanation.score == "logit"
    for i, class_name in zip(indices, names, strict=True):
        assert explanation.similarities[class_name] == pytest.approx(float(logits[i]), rel=1e-3, abs=1e-4)
        assert explanation.probabilities[class_name] == pytest.approx(float(logits.softmax(0)[i]), rel=1e-3)
    _check_parity(explainer, model, names, pixels)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "efficientnet_b1",
        pytest.param("tf_efficientnet_lite0", marks=pytest.mark.slow),
        pytest.param("mobilenetv3_small_100", marks=pytest.mark.slow),
    ],
)
def test_a_cell_of_a_cnns_grid_is_where_it_looks(name: str, tmp_path: Path) -> None:
    """Max pools, TensorFlow's padding, and sizes that are no multiple of the stride included."""
    _, checkpoint = randomised(name, {}, tmp_path)
    explainer = finercam_clip.load_classifier(name, pretrained=checkpoint)
    for cell in ((1, 2), (5, 4)):
        check_alignment(explainer.loaded.tower, explainer.loaded.tower.size, cell)


# ------------------------------------------------------------------------------------------------ heads on each pooling


def _check_by_hand(explainer: Explainer, pooling: str, weight: Tensor, bias: Tensor, pixels: Tensor) -> None:
    """The package's FinerCAM on a backbone with a head put together as the paper's scripts do it."""
    visual = explainer.loaded.tower.visual

    class WithHead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = visual.trunk

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.trunk.forward_features(x)
            return (tokens[:, 1:].mean(1) if pooling == "mean" else tokens[:, 0]) @ weight.T + bias

    encoding = explainer.encode(CHELSEA, image_size=(140, 210))
    transform = grad_cam.reshape_transform(lambda tokens: tokens[:, 1:], (10, 15))
    with explainer.loaded.tower.sized((140, 210)):
        for method, kind in (("gradcam", GradCAM), ("hirescam", HiResCAM)):
            target = grad_cam.finer(0, [1, 2, 3], 0.6)
            norm = visual.trunk.blocks[-1].norm1
            theirs = grad_cam.map_of(kind, WithHead(), norm, transform, (10, 15), pixels, target)
            ours = encoding.explain(
                "a", ["b", "c", "d"], method=method, objective="finer-softmax-upstream", gamma=0.6
            ).grid
            assert np.abs(grad_cam.positive(ours) - theirs).max() <= 1e-4, method


@pytest.mark.parametrize("pooling", ["token", "mean", pytest.param("model", marks=pytest.mark.slow)])
def test_dinov2_and_a_head_on_each_pooling(
    pooling: str, tmp_path: Path, shallow: Callable[[dict[str, Any]], None]
) -> None:
    """The paper's backbone at its width and patches, two blocks deep; the formula by hand, from timm's tokens."""
    settings = {"depth": 2}
    name = "vit_base_patch14_dinov2.lvd142m"
    model, checkpoint = randomised(name, settings, tmp_path)
    shallow(settings)
    head = head_file(tmp_path, 768)
    weight, bias = read_head(head)
    explainer = finercam_clip.load_classifier(name, head, ["a", "b", "c", "d"], pretrained=checkpoint, pooling=pooling)
    encoding = explainer.encode(CHELSEA, image_size=(140, 210))
    assert encoding.grid == (10, 15)
    pixels = explainer.loaded.preprocess(Image.fromarray(CHELSEA), (140, 210))[0][None]
    with torch.no_grad(), explainer.loaded.tower.sized((140, 210)):
        tokens: Any = explainer.loaded.tower.visual.trunk.forward_features(pixels)[0]
    with torch.no_grad():
        assert bool((explainer.loaded.tower.visual.trunk.norm.weight == model.norm.weight).all())
    expected = (tokens[1:].mean(0) if pooling == "mean" else tokens[0]) @ weight.T + bias
    explanation = encoding.explain("a", ["b", "c", "d"])
    assert list(explanation.similarities.values()) == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-3)
    assert sum(explanation.probabilities.values()) == pytest.approx(1)
    _check_by_hand(explainer, pooling, weight, bias, pixels)
    unpooled = finercam_clip.load_classifier(name, head, pretrained=checkpoint)  # the pooling is asked for later
    again = unpooled.encode(CHELSEA, image_size=(140, 210), pooling=pooling).explain("0")
    assert again.similarities["0"] == pytest.approx(explanation.similarities["a"], rel=1e-5)


# ---------------------------------------------------------------------------------------------------------- photographs


def test_photographs_read_what_is_on_them_and_the_maps_are_the_packages(photos: Explainer) -> None:
    """The predictions are those of timm alone: its model, its transform, its names of ImageNet's classes."""
    predictions, expected = photos.encode(CHELSEA).predictions(3), photos_predictions(CHELSEA, 3)
    assert list(predictions) == list(expected)
    assert list(predictions.values()) == pytest.approx(list(expected.values()), abs=1e-3)
    pixels = photos.loaded.preprocess(Image.fromarray(CHELSEA))[0][None]
    _check_parity(photos, photos_model(), CATS, pixels)


def test_upstreams_weights_over_several_contrasts_are_the_packages(photos: Explainer) -> None:
    """Held constant, p_i / sum p_i over the contrasts is the same whether p is over all classes or these alone."""
    encoding, classes = photos.encode(CHELSEA), classes_of(photos)
    s = classes.rows @ encoding.forward.tail.embedding
    target, *others = (classes.index(name) for name in CATS)
    p = s.softmax(0)[others]
    direction = classes.rows[target] - 0.6 * (p / p.sum()) @ classes.rows[others]
    for method in ("gradcam", "hirescam"):
        expected = maps(encoding, direction[None], method)[0]
        grid = encoding.explain(CATS[0], CATS[1:], method=method, objective="finer-softmax", gamma=0.6).grid
        np.testing.assert_allclose(grid, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("method", ["gradcam", "hirescam"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_map_lies_on_the_cat(photos: Explainer, side: str, method: str) -> None:
    """A cat beside a cup of coffee, both photographs: where each is is known to the pixel."""
    size = 224
    cat, cup = (np.asarray(Image.fromarray(image).resize((size, size))) for image in (CHELSEA, data.coffee()))
    pair = [cat, cup] if side == "left" else [cup, cat]
    image = photos.encode(np.concatenate(pair, 1), image_size="native")
    mask = np.zeros((size, 2 * size), bool)
    mask[:, slice(0, size) if side == "left" else slice(size, None)] = True
    for name, other, on in (("Egyptian cat", "espresso", mask), ("espresso", "Egyptian cat", ~mask)):
        explanation = image.explain(name, [other], method=method)
        assert explanation.peak is not None
        assert on[explanation.peak[1], explanation.peak[0]], name
        assert explanation.heatmap[on].sum() > 0.7 * explanation.heatmap.sum(), name


def test_the_bias_is_in_the_scores_and_in_no_map(photos: Explainer) -> None:
    encoding, classes = photos.encode(CHELSEA), classes_of(photos)
    row = classes.rows[classes.index("tiger cat")].clone()
    map_before = maps(encoding, row[None], "gradcam")
    row[-1] += 100
    np.testing.assert_allclose(maps(encoding, row[None], "gradcam"), map_before, atol=1e-5 * np.abs(map_before).max())
    assert float(row @ encoding.forward.tail.embedding) == pytest.approx(
        float(classes.rows[classes.index("tiger cat")] @ encoding.forward.tail.embedding) + 100, abs=1e-3
    )


def test_swapping_target_and_contrast_negates_the_grid(photos: Explainer) -> None:
    grid, swapped = (
        photos.explain(CHELSEA, a, [b], objective="finer", gamma=1).grid for a, b in (CATS[:2], CATS[1::-1])
    )
    np.testing.assert_allclose(grid, -swapped, atol=1e-5 * np.abs(grid).max())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_agrees_in_rank(photos: Explainer, precision: str) -> None:
    half = finercam_clip.load_classifier("photos", precision=precision)
    one, two = (explainer.explain(CHELSEA, CATS[0], CATS[1:2], gamma=0.6).grid.ravel() for explainer in (photos, half))
    assert np.isfinite(two).all()
    assert spearmanr(one, two).statistic >= 0.99


# --------------------------------------------------------------------------------------------------------- command line


@pytest.mark.usefixtures("photos")
def test_photos_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(CHELSEA).save("photo.png")
    question = ["explain", "photo.png", "--classifier", "photos", "--target", "tiger cat"]
    assert main([*question, "--contrast", "Egyptian cat"]) == 0
    out = capsys.readouterr().out
    assert "logit" in out
    assert f"p {photos_predictions(CHELSEA, 1)['tiger cat']:.3f}  tiger cat" in out
    assert Path("photo-finercam.png").is_file()
    assert main([*question, "--preset", "finer-default", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["contrasts"][:2] == ["Egyptian cat", "tabby, tabby cat"]
    for wrong, message in (
        (["--contrast", "dog cat"], "no class 'dog cat'"),
        (["--model", "ViT-B-16"], "not both"),
        (["--preset", "best"], "no preset"),
    ):
        assert main([*question, *wrong]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert len(err.splitlines()) == 1
