"""Models in memory: the same answers as by name, the model as it was, and one line where something is missing."""

from __future__ import annotations

import copy
import csv
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from reference.hub import hub_model, transformers
from reference.models import BLUE, NOISE, RED, model_of, tiny_explainer, tokenizer_of
from reference.networks import TRANSFORM, Network
from reference.towers import check_gradient, hooked
from reference.unchanged import unchanged
from skimage import data
from torch import Tensor, nn

import finercam_clip
from finercam_clip import InputError
from finercam_clip.datasets import open_dataset
from finercam_clip.explainer import Explainer
from finercam_clip.methods import METHODS, perturbation
from finercam_clip.runs.pictures import threads_of
from finercam_clip.towers.closed import QueryTail
from finercam_clip.towers.passes import embed_changed
from finercam_clip.towers.tails import AutogradTail

CHELSEA = data.chelsea()
SMALL = "ViT-S-32-alt"
INAT = Path(__file__).parents[2] / "shared" / "data" / "inat-birds"
CUB = Path(__file__).parents[2] / "shared" / "data" / "cub-crops"


@pytest.fixture(autouse=True)
def _few_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perturbation, "RISE_MASKS", 32)


def _tiny() -> tuple[Any, Any, Any]:
    """A small open_clip CLIP, its evaluation transform and its tokenizer."""
    explainer = tiny_explainer(image_size=32)
    transform = open_clip.transform.image_transform(32, is_train=False)
    return model_of(explainer), transform, tokenizer_of(explainer)


# ------------------------------------------------------------------------------------------------------- open_clip


@pytest.mark.parametrize("name", [SMALL, pytest.param("ViT-B-32", marks=pytest.mark.slow)])
def test_a_model_in_memory_answers_as_the_same_weights_by_name(name: str, tmp_path: Path) -> None:
    """To the bit."""
    model, _, transform = open_clip.create_model_and_transforms(name)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    loaded = finercam_clip.load(name, pretrained=str(tmp_path / "weights.pt"))
    wrapped = finercam_clip.wrap(model.train(), transform, open_clip.get_tokenizer(name))
    for size in (None, 448, "native"):
        one, two = (explainer.explain(CHELSEA, "a cat", ["a dog"], image_size=size) for explainer in (loaded, wrapped))
        assert np.array_equal(one.grid, two.grid)
        assert one.similarities == two.similarities
        assert one.geometry == two.geometry


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_as_it_was(training: bool) -> None:
    """Training mode, gradients, hooks, attributes: also where parts differ from each other."""
    model, transform, tokenizer = _tiny()
    model.train(training).requires_grad_(training)
    model.visual.ln_pre.eval()
    model.visual.conv1.weight.requires_grad_(not training)
    model.visual.ln_post.register_forward_hook(lambda *_: None)
    with unchanged(model):
        explainer = finercam_clip.wrap(model, transform, tokenizer)
        for method in METHODS:
            explainer.explain(NOISE, RED, [BLUE], method=method)
        explainer.explain(NOISE, RED, [BLUE], image_size=48)


def test_dropout_is_off_while_a_model_in_training_is_asked() -> None:
    model, transform, tokenizer = _tiny()
    for block in model.visual.transformer.resblocks:
        block.mlp.append(nn.Dropout(0.5))
    model.train()
    explainer = finercam_clip.wrap(model, transform, tokenizer)
    one, two = (explainer.explain(NOISE, RED, [BLUE], method="occlusion").grid for _ in range(2))
    assert np.array_equal(one, two)


def test_a_model_that_learns_is_explained_as_it_is_now() -> None:
    """Its texts, too: they are kept only as long as no weight changes."""
    model, transform, tokenizer = _tiny()
    explainer = finercam_clip.wrap(model, transform, tokenizer)
    before = explainer.explain(NOISE, RED, [BLUE])
    model.requires_grad_(True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    pixels = torch.randn(2, 3, 32, 32)
    loss = (model.encode_image(pixels) @ model.encode_text(tokenizer(["a", "b"])).T).square().sum()
    loss.backward()
    optimizer.step()
    after = explainer.explain(NOISE, RED, [BLUE])
    fresh = finercam_clip.wrap(model, transform, tokenizer).explain(NOISE, RED, [BLUE])
    assert after.similarities == fresh.similarities != before.similarities
    assert np.array_equal(after.grid, fresh.grid)


def _data_parallel(model: nn.Module) -> nn.Module:
    return nn.DataParallel(model)


def _compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="aot_eager")


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("around", [_data_parallel, _compiled])
def test_what_is_around_a_model_does_not_matter(around: Callable[[nn.Module], Any]) -> None:
    model, transform, tokenizer = _tiny()
    expected = finercam_clip.wrap(model, transform, tokenizer).explain(NOISE, RED, [BLUE])
    found = finercam_clip.wrap(around(model), transform, tokenizer).explain(NOISE, RED, [BLUE])
    np.testing.assert_allclose(found.grid, expected.grid, atol=1e-5 * np.abs(expected.grid).max())


@pytest.mark.usefixtures("process_group")
def test_a_model_in_distributed_data_parallel() -> None:
    model, transform, tokenizer = _tiny()
    expected = finercam_clip.wrap(model, transform, tokenizer).explain(NOISE, RED, [BLUE])
    parallel = nn.parallel.DistributedDataParallel(model.requires_grad_(True))
    assert np.array_equal(
        finercam_clip.wrap(parallel, transform, tokenizer).explain(NOISE, RED, [BLUE]).grid, expected.grid
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    model, transform, tokenizer = _tiny()
    exact = finercam_clip.wrap(copy.deepcopy(model), transform, tokenizer).explain(NOISE, RED, [BLUE])
    half = finercam_clip.wrap(model.to(dtype), transform, tokenizer)
    assert half.loaded.dtype == dtype
    grid = half.explain(NOISE, RED, [BLUE]).grid
    assert np.corrcoef(grid.ravel(), exact.grid.ravel())[0, 1] > 0.99


@pytest.mark.parametrize(
    ("targets", "closed"),
    [(["c_fc", "c_proj"], False), (["attn"], False), (["conv1"], True)],
)
def test_adapters_count_and_are_never_passed_by(targets: list[str], closed: bool) -> None:
    """LoRA puts layers into the tower: the closed form would read their base weights and be wrong without a word."""
    peft = pytest.importorskip("peft", reason="pip install peft")
    model, transform, tokenizer = _tiny()
    plain = finercam_clip.wrap(copy.deepcopy(model), transform, tokenizer).explain(NOISE, RED, [BLUE])
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
    explainer = finercam_clip.wrap(adapted, transform, tokenizer)
    encoding = explainer.encode(NOISE)
    visual = adapted.get_base_model().visual
    with torch.no_grad():
        own = F.normalize(visual(encoding.forward.pixels)[0], dim=-1)
    torch.testing.assert_close(encoding.embedding, own, rtol=1e-4, atol=1e-5)
    assert isinstance(encoding.forward.tail, QueryTail) == closed
    check_gradient(explainer.loaded.tower, encoding.forward.tail, encoding.forward.pixels, tolerance=1e-5)
    grid = encoding.explain(RED, [BLUE]).grid
    assert np.abs(grid - plain.grid).max() > 1e-3 * np.abs(plain.grid).max()


# ----------------------------------------------------------------------------------------------------- classifiers

NETWORKS: dict[str, tuple[str | None, str]] = {
    "resnet18": (None, "layer4"),
    "convnext_tiny": (None, "features"),
    "densenet121": (None, "features"),
    "mobilenet_v3_small": (None, "features"),
    "swin_t": (None, "permute"),
    "vit_b_16": ("encoder.layers.encoder_layer_11.ln_1", "encoder.layers.encoder_layer_11.ln_1"),
    "vgg11": ("features", "features"),
}


@pytest.mark.parametrize(
    "name",
    [n if n in ("resnet18", "densenet121", "vit_b_16") else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS],
)
def test_torchvisions_networks_have_their_own_logits_and_right_gradients(name: str) -> None:
    told, layer = NETWORKS[name]
    weights = torchvision.models.get_model_weights(name).DEFAULT
    torch.manual_seed(0)
    model = torchvision.models.get_model(name)
    model.train()
    with unchanged(model):
        explainer = finercam_clip.wrap(
            model, weights.transforms(), classes=weights.meta["categories"], target_layer=told
        )
        tower: Any = explainer.loaded.tower
        assert tower.layer is model.get_submodule(layer)
        encoding = explainer.encode(CHELSEA)
        explanation = encoding.explain("tiger cat", ["Egyptian cat"])
    model.eval()
    with torch.no_grad():
        logits = model(weights.transforms()(Image.fromarray(CHELSEA))[None])[0]
    index = weights.meta["categories"].index("tiger cat")
    assert explanation.similarities["tiger cat"] == pytest.approx(float(logits[index]), rel=1e-3, abs=1e-4)
    assert explanation.probabilities["tiger cat"] == pytest.approx(float(logits.softmax(0)[index]), rel=1e-3)
    # The gradient of a logit on A, by autograd through the model itself.
    outputs: list[Tensor] = []
    model.requires_grad_(True)
    with hooked(model.get_submodule(layer), lambda out: outputs.append(out.clone()) or outputs[-1].clone()):
        (slope,) = torch.autograd.grad(model(encoding.forward.pixels)[0, index], outputs[-1:] or None)  # type: ignore[arg-type]
    expected = tower.patches(slope)[0]
    space: Any = explainer.loaded.space
    (gradient,) = encoding.forward.tail.gradients(space.rows[index : index + 1])
    assert float((gradient - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


def test_a_cell_of_the_grid_is_where_the_network_looks() -> None:
    from reference.towers import check_alignment

    torch.manual_seed(0)
    model = torchvision.models.resnet18()
    explainer = finercam_clip.wrap(model, torchvision.models.ResNet18_Weights.DEFAULT.transforms())
    for cell in ((1, 2), (5, 4)):
        check_alignment(explainer.loaded.tower, (224, 224), cell)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "convnext_atto"])
def test_timms_classifiers_keep_their_head(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    model.train()
    with unchanged(model):
        wrapped = finercam_clip.wrap(model)
        loaded = finercam_clip.load_classifier(name, pretrained=tmp_path / "weights.pth")
        one, two = (explainer.explain(CHELSEA, "tiger cat", 3) for explainer in (wrapped, loaded))
    assert np.array_equal(one.grid, two.grid)
    assert one.similarities == two.similarities


def test_ones_own_network_needs_its_transform_and_its_classes_only() -> None:
    torch.manual_seed(0)
    model = Network()
    explainer = finercam_clip.wrap(model, TRANSFORM, classes=["cat", "dog", "fox"])
    explanation = explainer.explain(CHELSEA, "cat", ["dog"], objective="finer", gamma=1.0)
    assert explanation.grid.shape == (4, 6)
    with torch.no_grad():
        maps = model.trunk(TRANSFORM(Image.fromarray(CHELSEA))[None])[0]
    difference = model.head.weight[0] - model.head.weight[1]
    expected = torch.einsum("chw,c->hw", maps, difference.detach()) / 24  # the exact class activation map
    np.testing.assert_allclose(explanation.grid, expected.numpy(), atol=1e-5 * float(expected.abs().max()))
    assert explainer.encode(CHELSEA).predictions(1)


@pytest.mark.skipif(not (INAT.is_dir() and CUB.is_dir()), reason="the shared photographs are not here")
@pytest.mark.slow
def test_a_real_classifier_in_memory_on_real_photographs() -> None:
    from safetensors.torch import load_file

    model = timm.create_model("mobilenetv2_100", num_classes=965, pad_type="same")
    model.load_state_dict(
        {name: tensor.float() for name, tensor in load_file(INAT / "mobilenetv2_100.safetensors").items()}
    )
    transform = torchvision.transforms.Compose(
        [
            torchvision.transforms.Resize((224, 224)),
            torchvision.transforms.ToTensor(),
            torchvision.transforms.Normalize((0.5,) * 3, (0.5,) * 3),
        ]
    )
    explainer = finercam_clip.wrap(model, transform, classes=INAT / "classes.txt")
    with (CUB / "inat_names.csv").open(encoding="utf-8", newline="") as file:
        names = {row["cub"]: row["inat"] for row in csv.DictReader(file)}
    known = {item.path: names.get(str(item.target).split(".", 1)[1]) for item in open_dataset(CUB).items}
    paths = [path for path, name in known.items() if name is not None]
    drawn = [paths[i] for i in np.random.default_rng(0).permutation(len(paths))[:300]]
    assert len(drawn) == 300
    predicted = [next(iter(encoding.predictions(1))) for encoding in explainer.encode(drawn)]
    names_in_order = (INAT / "classes.txt").read_text(encoding="utf-8").splitlines()
    for path, name in zip(drawn[:50], predicted, strict=False):
        with torch.no_grad(), Image.open(path) as image:
            assert name == names_in_order[int(model.eval()(transform(image.convert("RGB"))[None]).argmax())]
    # The network itself is right in 0.877 of all 3,930 photographs of these species; of these 300 in 0.86.
    assert np.mean([name == known[path] for path, name in zip(drawn, predicted, strict=True)]) >= 0.84


# ------------------------------------------------------------------------------------------------- what is missing


def test_what_is_missing_is_said_in_one_line(processors: dict[str, Any]) -> None:
    model, transform, tokenizer = _tiny()
    hub = hub_model("clip")
    other = processors["siglip"]
    with torch.device("meta"):
        meta = Network()
    cases: list[tuple[Callable[[], Explainer], str]] = [
        (lambda: finercam_clip.wrap("ViT-B-16"), "load takes names"),
        (lambda: finercam_clip.wrap(model, transform), "needs its tokenizer"),
        (lambda: finercam_clip.wrap(nn.Linear(3, 3)), "no image and text tower"),
        (lambda: finercam_clip.wrap(meta, TRANSFORM, classes=["a", "b", "c"]), "no weights yet"),
        (lambda: finercam_clip.wrap(Network(), classes=["a", "b", "c"]), "give its preprocessing"),
        (lambda: finercam_clip.wrap(Network(), TRANSFORM, classes=["a", "b"]), "2 class names for a head of 3"),
        (lambda: finercam_clip.wrap(nn.Sequential(Network(), nn.Softmax(1)), TRANSFORM), "head is not linear"),
        (lambda: finercam_clip.wrap(Network(), TRANSFORM, target_layer="layer4"), "no module 'layer4'"),
        (lambda: finercam_clip.wrap(Network(), TRANSFORM, target_layer="head"), "no feature map"),
        (lambda: finercam_clip.wrap(hub), "needs its processor"),
        (lambda: finercam_clip.wrap(hub, processors["clip"].image_processor), "no tokenizer"),
        (
            lambda: finercam_clip.wrap(hub, transformers.CLIPImageProcessor(), processors["clip"].tokenizer),
            "another model's",
        ),
        (lambda: finercam_clip.wrap(model, other, tokenizer), "fails on the 48 x 48 pixels"),
    ]
    for call, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            call()
        assert len(str(caught.value).splitlines()) == 1
    small = tiny_explainer(image_size=32)
    vocabulary = nn.Embedding(100, 32)
    shrunk = model_of(small)
    shrunk.token_embedding = vocabulary
    with pytest.raises(InputError, match="another model's"):
        finercam_clip.wrap(shrunk, transform, tokenizer)


def test_average_pooled_towers_have_a_graph(tmp_path: Path) -> None:
    """Not every tower has a closed form; `wrap` works all the same."""
    explainer = tiny_explainer(image_size=32, pool_type="avg")
    transform = open_clip.transform.image_transform(32, is_train=False)
    wrapped = finercam_clip.wrap(model_of(explainer), transform, tokenizer_of(explainer))
    assert isinstance(wrapped.encode(NOISE).forward.tail, AutogradTail)


def test_batches_of_changed_pictures_do_not_get_each_others_embeddings() -> None:
    """The head's input is heard by a hook. Beside another batch it would hear that one's, too."""
    model = Network()
    model.head.register_forward_hook(lambda *_: time.sleep(0.02))  # meanwhile other threads come to the head
    forward = finercam_clip.wrap(model, TRANSFORM, classes=["a", "b", "c"]).encode(CHELSEA).forward
    pixels = torch.randn(12, *forward.pixels.shape[1:])
    with threads_of(4):
        together = embed_changed(forward, pixels)
    alone = torch.cat([embed_changed(forward, one) for one in torch.split(pixels, 1)])
    torch.testing.assert_close(together, alone)
