"""Loading: heads and checkpoints from files, weights at random, and one line for everything that cannot be loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from reference.classifiers import head_file, randomised
from reference.models import model_of
from safetensors.torch import save_file
from skimage import data
from torch import nn

import finercam_clip
from finercam_clip import InputError
from finercam_clip.models.heads import read_head

HEADS = Path(__file__).parents[2] / "shared" / "data" / "finer-cam-heads"
SMALL = "ViT-S-32-alt"  # the architecture of open_clip that is built fastest
CHELSEA = data.chelsea()


# ---------------------------------------------------------------------------------------------------------------- heads


@pytest.mark.parametrize("kind", [".pth", ".pt", ".safetensors", ".npz"])
def test_a_head_is_read_from_every_format(kind: str, tmp_path: Path) -> None:
    weight, bias = torch.randn(4, 8), torch.randn(4)
    for prefix in ("", "module.linear."):
        path = head_file(tmp_path, 8, kind, **{f"{prefix}weight": weight, f"{prefix}bias": bias})
        assert all(bool((one == two).all()) for one, two in zip(read_head(path), (weight, bias), strict=True))
    path = head_file(tmp_path, 8, kind, weight=weight)
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
            read_head(head_file(tmp_path, 2, **tensors))
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
    explanation = explainer.encode(CHELSEA, image_size=140).explain("7", contrasts=3)
    assert len(explanation.contrasts) == 3
    assert explanation.grid.shape == (10, 10)
    with pytest.raises(InputError, match=f"2 class names for a head of {count} classes"):
        finercam_clip.load_classifier(head=head, classes=["a", "b"], pretrained="random")


# ---------------------------------------------------------------------------------------------------------- checkpoints


def test_a_checkpoint_fits_whole_or_not_at_all(tmp_path: Path, shallow: Callable[[dict[str, Any]], None]) -> None:
    name, head = "vit_small_patch14_dinov2", head_file(tmp_path, 384)
    model, checkpoint = randomised(name, {"depth": 1}, tmp_path)
    shallow({"depth": 1})
    expected = finercam_clip.load_classifier(name, head, pretrained=checkpoint)
    state = model.state_dict()
    torch.save(state | {"mask_token": torch.zeros(1, 384)}, tmp_path / "authors.pth")  # as the authors publish it
    save_file(state | {"head.weight": torch.ones(3, 384), "head.bias": torch.ones(3)}, tmp_path / "m.safetensors")
    for file in ("authors.pth", "m.safetensors"):
        explainer = finercam_clip.load_classifier(name, head, pretrained=tmp_path / file)
        for key, tensor in explainer.loaded.tower.visual.trunk.state_dict().items():
            assert bool((tensor == expected.loaded.tower.visual.trunk.state_dict()[key]).all())
    torch.save({key: tensor for key, tensor in state.items() if "fc2" not in key}, tmp_path / "part.pth")
    torch.save({f"layer{key}": tensor for key, tensor in state.items()}, tmp_path / "resnet.pth")
    torch.save({"state_dict": nn.Linear(1, 1)}, tmp_path / "objects.pth")
    for file, message in (("part.pth", "another"), ("resnet.pth", "another"), ("objects.pth", "never executed")):
        with pytest.raises(InputError, match=message) as error:
            finercam_clip.load_classifier(name, head, pretrained=tmp_path / file)
        assert "\n" not in str(error.value)


def test_without_a_backbone_it_is_the_papers(tmp_path: Path, shallow: Callable[[dict[str, Any]], None]) -> None:
    shallow({"depth": 1})
    explainer = finercam_clip.load_classifier(head=head_file(tmp_path, 768), pretrained="random")
    assert explainer.loaded.name == "vit_base_patch14_dinov2.lvd142m"
    assert explainer.loaded.tower.visual.trunk.global_pool == "avg"


# ------------------------------------------------------------------------------------------------------- random weights


@pytest.mark.parametrize(
    "load",
    [
        lambda: finercam_clip.load(SMALL, "random"),
        lambda: finercam_clip.load_classifier("resnet18", pretrained="random"),
    ],
    ids=["CLIP", "classifier"],
)
def test_random_weights_are_the_same_every_time_and_leave_the_users_generator_alone(
    load: Callable[[], Any],
) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    with pytest.warns(UserWarning, match="with RANDOM weights: its heatmaps mean nothing"):
        one = load()
    assert torch.equal(torch.rand(3), expected)
    other = load()
    weights, again = (explainer.loaded.tower.visual.state_dict() for explainer in (one, other))
    assert all(torch.equal(again[name], tensor) for name, tensor in weights.items())
    assert one.loaded.pretrained == "random"


def test_a_model_is_loaded_to_be_asked_and_not_to_be_trained() -> None:
    for explainer in (finercam_clip.load(SMALL, "random"), finercam_clip.load()):
        model = model_of(explainer)
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
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
def test_a_wrong_classifier_is_one_line(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    if "head" in arguments:
        arguments = arguments | {"head": head_file(tmp_path, 768)}
    with pytest.raises(InputError, match=message) as error:
        finercam_clip.load_classifier(**arguments)
    assert "\n" not in str(error.value)


def test_half_precision_on_a_cpu_says_that_it_computes_in_full() -> None:
    """CPUs have no kernels for convolutions in fp16: an image would take a minute."""
    with pytest.warns(UserWarning, match="computing in fp32"):
        explainer = finercam_clip.load_classifier("resnet18", pretrained="random", precision="fp16", device="cpu")
    assert explainer.loaded.dtype == torch.float32
