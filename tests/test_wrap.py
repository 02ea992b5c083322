"""Models in memory: the same answers as by name, the model as it was, and one line where something is missing."""

from __future__ import annotations

import copy
import json
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
from reference.models import BLUE, NOISE, RED, model_of, tiny_explainer, tokenizer_of
from reference.towers import hooked
from reference.unchanged import unchanged
from skimage import data
from torch import Tensor, nn
from torchvision.transforms import v2 as V2

import finercam_clip
from finercam_clip import InputError
from finercam_clip.explainer import Explainer
from finercam_clip.methods import METHODS, perturbation
from finercam_clip.towers.closed import QueryTail
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
    _check_gradient(encoding.forward.tail, visual, visual.transformer.resblocks[-1].ln_1, encoding.forward.pixels)
    grid = encoding.explain(RED, [BLUE]).grid
    assert np.abs(grid - plain.grid).max() > 1e-3 * np.abs(plain.grid).max()


@torch.no_grad()
def _check_gradient(tail: Any, visual: Any, layer: nn.Module, pixels: Tensor, prefix: int = 1) -> None:
    """Against finite differences on the module itself, in float64."""
    direction = torch.randn(len(tail.embedding), generator=torch.Generator().manual_seed(3))
    (gradient,) = tail.gradients(direction[None])
    names = {id(module): name for name, module in visual.named_modules()}
    precise = copy.deepcopy(visual).double()
    copied = precise.get_submodule(names[id(layer)])
    rng, step = np.random.default_rng(0), 1e-5
    for _ in range(5):
        n, c = int(rng.integers(gradient.shape[0])), int(rng.integers(gradient.shape[1]))
        values = []
        for shift in (step, -step):

            def shifted(output: Tensor, shift: float = shift, n: int = n, c: int = c) -> Tensor:
                output = output.clone()
                output[0, n + prefix, c] += shift
                return output

            with hooked(copied, shifted):
                values.append(float(F.normalize(precise(pixels.double())[0], dim=-1) @ direction.double()))
        slope = (values[0] - values[1]) / (2 * step)
        assert slope == pytest.approx(float(gradient[n, c]), abs=1e-5 * float(gradient.abs().max()) + 1e-7)


# --------------------------------------------------------------------------------------------------- Hugging Face

transformers = pytest.importorskip("transformers", reason="pip install 'finercam_clip[hf]'")


def _vocabulary(folder: Path) -> Any:
    """CLIP's own tokenizer in Hugging Face's format, made of open_clip's vocabulary."""
    own = open_clip.SimpleTokenizer()
    ends = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {ends.get(word, word): number for word, number in own.encoder.items()}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    merges = sorted(own.bpe_ranks, key=own.bpe_ranks.__getitem__)
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges), encoding="utf-8"
    )
    return transformers.CLIPTokenizer.from_pretrained(str(folder))


WIDTHS = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
WORDS = {"vocab_size": 49408, "max_position_embeddings": 32}


def _randomised(model: Any) -> Any:
    """Every parameter away from its special value."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_((0.2 if parameter.ndim == 1 else 0.05) * torch.randn_like(parameter))
    return model.eval().requires_grad_(False)


def _hub_model(kind: str) -> Any:
    torch.manual_seed(0)
    text = WIDTHS | WORDS
    if kind == "clip":
        vision = WIDTHS | {"image_size": 48, "patch_size": 16}
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)
        return _randomised(transformers.CLIPModel(config))
    if kind == "siglip":
        vision = WIDTHS | {"image_size": 48, "patch_size": 16}
        config = transformers.SiglipConfig(text_config=text | {"projection_size": 64}, vision_config=vision)
        return _randomised(transformers.SiglipModel(config))
    vision = WIDTHS | {"num_patches": 9, "patch_size": 16}
    config = transformers.Siglip2Config(text_config=text | {"projection_size": 64}, vision_config=vision)
    return _randomised(transformers.Siglip2Model(config))


def _processor(kind: str, folder: Path) -> Any:
    tokenizer = _vocabulary(folder)
    if kind == "clip":
        size = {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}
        return transformers.CLIPProcessor(transformers.CLIPImageProcessor(**size), tokenizer)
    if kind == "siglip":
        image_processor = transformers.SiglipImageProcessor(size={"height": 48, "width": 48})
    else:
        image_processor = transformers.Siglip2ImageProcessor(patch_size=16, max_num_patches=9)
    return type("Processor", (), {"image_processor": image_processor, "tokenizer": tokenizer})()


KINDS = ("clip", "siglip", "siglip2")


@pytest.fixture(scope="module")
def processors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {kind: _processor(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


def _features(output: Any) -> Tensor:
    """What `get_image_features` gives: a tensor in transformers 4, an output in 5."""
    features: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return F.normalize(features, dim=-1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_hugging_faces_models_have_their_own_scores_and_right_gradients(
    kind: str, implementation: str, processors: dict[str, Any]
) -> None:
    model, processor = _hub_model(kind), processors[kind]
    model.set_attn_implementation(implementation)
    with unchanged(model):
        explainer = finercam_clip.wrap(model, processor)
        encoding = explainer.encode(CHELSEA)
        with torch.no_grad():
            inputs = processor.image_processor(images=Image.fromarray(CHELSEA), return_tensors="pt")
            own = _features(model.get_image_features(**inputs))[0]
            words = processor.tokenizer([RED, BLUE], padding="max_length", max_length=32, return_tensors="pt")
            texts = _features(model.get_text_features(**words))
        torch.testing.assert_close(encoding.embedding, own, rtol=1e-4, atol=5e-3 if kind == "siglip2" else 1e-5)
        torch.testing.assert_close(explainer.embed([RED, BLUE]), texts, rtol=1e-4, atol=1e-5)
        assert explainer.loaded.space.scale == pytest.approx(float(model.logit_scale.exp()))
        assert isinstance(encoding.forward.tail, QueryTail)
        tower: Any = explainer.loaded.tower
        model.set_attn_implementation("sdpa")  # the eager one's softmax is float32: finite differences drown in that
        _check_gradient(
            encoding.forward.tail, tower.visual, tower.layers()[-1], encoding.forward.pixels, prefix=tower.prefix
        )


@pytest.mark.parametrize("kind", KINDS)
def test_every_method_that_says_it_works_works(kind: str, processors: dict[str, Any]) -> None:
    explainer = finercam_clip.wrap(_hub_model(kind), processors[kind])
    encoding = explainer.encode(CHELSEA)
    refused = []
    for method in METHODS:
        try:
            grid = encoding.explain(RED, [BLUE], method=method).grid
        except InputError:
            refused.append(method)
            continue
        assert grid.shape == encoding.grid
        assert np.isfinite(grid).all()
        assert np.abs(grid).max() > 0, method
    assert refused == (
        [] if kind == "clip" else ["grad-eclip", "chefer", "rollout", "maskclip", "clip-surgery", "sclip"]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_another_input_size_of_hugging_faces(kind: str, processors: dict[str, Any]) -> None:
    model = _hub_model(kind)
    explainer = finercam_clip.wrap(model, processors[kind])
    encoding = explainer.encode(CHELSEA, image_size=(64, 96))
    assert encoding.grid == (4, 6)
    if kind != "siglip2":
        with torch.no_grad():
            own = _features(model.get_image_features(encoding.forward.pixels, interpolate_pos_encoding=True))[0]
        torch.testing.assert_close(encoding.embedding, own, rtol=1e-4, atol=1e-5)
    before = encoding.forward.tail.activations
    changed = encoding.forward.pixels.clone()
    changed[:, :, 32:48, 64:80] += 3  # the cell (2, 4)
    from finercam_clip.towers.forward import run

    moved = (run(explainer.loaded.tower, changed)[0].tail.activations - before).norm(dim=1)
    if kind != "clip":  # after three blocks and a norm the change is everywhere; it is largest at its own cell
        assert divmod(int(moved.argmax()), 6) == (2, 4)


def test_the_same_weights_as_open_clip_and_as_hugging_face_give_the_same_map(processors: dict[str, Any]) -> None:
    theirs = _hub_model("clip")
    vision = {"image_size": 48, "patch_size": 16, "layers": 3, "width": 64, "head_width": 16, "mlp_ratio": 1.5}
    text = {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 3, "mlp_ratio": 1.5}
    model = open_clip.CLIP(embed_dim=32, vision_cfg=vision, text_cfg=text, quick_gelu=True).eval()
    model.load_state_dict(_converted(theirs.state_dict(), model.state_dict()))
    processor = processors["clip"]
    transform = open_clip.transform.image_transform(48, is_train=False)
    one = finercam_clip.wrap(theirs, processor)
    two = finercam_clip.wrap(model, transform, open_clip.SimpleTokenizer(context_length=32))
    pixels = two.encode(CHELSEA).forward.pixels
    torch.testing.assert_close(one.encode(CHELSEA).forward.pixels, pixels, atol=0.03, rtol=0)  # their resampling
    from finercam_clip.towers.forward import run

    torch.testing.assert_close(one.embed([RED, BLUE]), two.embed([RED, BLUE]), rtol=1e-4, atol=1e-5)
    directions = one.embed([RED, BLUE])
    for method in ("hirescam", "gradcam", "legrad", "chefer", "maskclip", "grad-eclip", "rollout"):
        maps = [METHODS[method].maps(run(e.loaded.tower, pixels)[0], directions).detach() for e in (one, two)]
        assert float((maps[0] - maps[1]).abs().max()) <= 1e-4 * float(maps[1].abs().max()), method


def _converted(theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of Hugging Face's CLIP under open_clip's names."""
    state = {
        "logit_scale": theirs["logit_scale"],
        "visual.class_embedding": theirs["vision_model.embeddings.class_embedding"],
        "visual.conv1.weight": theirs["vision_model.embeddings.patch_embedding.weight"],
        "visual.positional_embedding": theirs["vision_model.embeddings.position_embedding.weight"],
        "visual.proj": theirs["visual_projection.weight"].T,
        "token_embedding.weight": theirs["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": theirs["text_model.embeddings.position_embedding.weight"],
        "text_projection": theirs["text_projection.weight"].T,
    }
    norms = {
        "visual.ln_pre": "vision_model.pre_layrnorm",
        "visual.ln_post": "vision_model.post_layernorm",
        "ln_final": "text_model.final_layer_norm",
    }
    for tower, own in (("vision_model", "visual.transformer.resblocks"), ("text_model", "transformer.resblocks")):
        for i in range(3):
            block, layer = f"{own}.{i}", f"{tower}.encoder.layers.{i}"
            norms |= {f"{block}.ln_1": f"{layer}.layer_norm1", f"{block}.ln_2": f"{layer}.layer_norm2"}
            norms |= {f"{block}.mlp.c_fc": f"{layer}.mlp.fc1", f"{block}.mlp.c_proj": f"{layer}.mlp.fc2"}
            norms[f"{block}.attn.out_proj"] = f"{layer}.self_attn.out_proj"
            for part in ("weight", "bias"):
                parts = [theirs[f"{layer}.self_attn.{x}_proj.{part}"] for x in "qkv"]
                state[f"{block}.attn.in_proj_{part}"] = torch.cat(parts)
    state |= {f"{a}.{part}": theirs[f"{b}.{part}"] for a, b in norms.items() for part in ("weight", "bias")}
    assert set(ours) - set(state) <= {"attn_mask"}
    return state | {name: tensor for name, tensor in ours.items() if name not in state}


def test_a_folder_in_hugging_faces_format_is_loaded_by_name(processors: dict[str, Any], tmp_path: Path) -> None:
    model = _hub_model("clip")
    model.save_pretrained(tmp_path)
    processors["clip"].save_pretrained(tmp_path)
    loaded = finercam_clip.load(f"hf:{tmp_path}")
    one, two = (e.explain(CHELSEA, RED, [BLUE]) for e in (loaded, finercam_clip.wrap(model, processors["clip"])))
    np.testing.assert_allclose(one.grid, two.grid, rtol=1e-5, atol=1e-6 * np.abs(two.grid).max())
    with pytest.raises(InputError, match=r"could not be (loaded|downloaded)"):
        finercam_clip.load(f"hf:{tmp_path}/none")
    with pytest.raises(InputError, match="its own weights"):
        finercam_clip.load(f"hf:{tmp_path}", "openai")


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


class Network(nn.Module):
    """The user's own: convolutions, an average, a head."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Conv2d(8, 16, 2, 2), nn.ReLU())
        self.head = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.trunk(x).mean((2, 3)))
        return output


TRANSFORM = torchvision.transforms.Compose(
    [
        torchvision.transforms.Resize((32, 48)),
        torchvision.transforms.ToTensor(),
        torchvision.transforms.Normalize((0.5,) * 3, (0.5,) * 3),
    ]
)


def test_ones_own_network_needs_its_transform_and_its_classes_only() -> None:
    torch.manual_seed(0)
    model = Network()
    explainer = finercam_clip.wrap(model, TRANSFORM, classes=["cat", "dog", "fox"])
    explanation = explainer.explain(CHELSEA, "cat", ["dog"], gamma=1.0)
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
    rows = [line.split(",") for line in (CUB / "inat_names.csv").read_text().splitlines()[1:]]
    names = {row[0]: ",".join(row[1:]).strip('"') for row in rows}
    items = [item for item in finercam_clip.datasets.open_dataset(CUB).items if item.target in names]
    chosen = [items[i] for i in np.random.default_rng(0).permutation(len(items))[:300]]
    right = [
        next(iter(encoding.predictions(1))) == names[item.target]
        for item, encoding in zip(chosen, explainer.encode([item.path for item in chosen]), strict=True)
    ]
    assert np.mean(right) >= 0.90


# ---------------------------------------------------------------------------------------------------- preprocessing

T = torchvision.transforms

NORMALIZE = T.Normalize((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))

TRANSFORMS: dict[str, tuple[Any, str, tuple[int, int]]] = {
    "open_clip": (open_clip.transform.image_transform(64, is_train=False), "shortest", (64, 64)),
    "open_clip, squashed": (
        open_clip.transform.image_transform(64, is_train=False, resize_mode="squash"),
        "squash",
        (64, 64),
    ),
    "open_clip, padded": (
        open_clip.transform.image_transform(64, is_train=False, resize_mode="longest"),
        "longest",
        (64, 64),
    ),
    "timm": (timm.data.create_transform((3, 64, 64), crop_pct=0.875), "shortest", (64, 64)),
    "torchvision's preset": (torchvision.models.ResNet18_Weights.DEFAULT.transforms(), "shortest", (224, 224)),
    "torchvision, squashed": (TRANSFORM, "squash", (32, 48)),
    "torchvision v2": (
        V2.Compose(
            [
                V2.ToImage(),
                V2.Resize(80, antialias=True),
                V2.CenterCrop(64),
                V2.ToDtype(torch.float32, scale=True),
                V2.Normalize((0.5,) * 3, (0.5,) * 3),
            ]
        ),
        "shortest",
        (64, 64),
    ),
    "a function to RGB": (
        T.Compose([T.Resize(64), T.CenterCrop(64), lambda image: image.convert("RGB"), T.ToTensor(), NORMALIZE]),
        "shortest",
        (64, 64),
    ),
    "pybioclip": ("pybioclip", "squash", (224, 224)),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("shape", [(120, 200), (200, 120), (64, 64)])
def test_a_transform_is_run_as_it_is_and_its_geometry_is_known(name: str, shape: tuple[int, int]) -> None:
    """A white square is found where the geometry puts it."""
    from finercam_clip.models.transforms import NAMED, preprocess_of

    transform, mode, size = TRANSFORMS[name]
    preprocess = preprocess_of(transform)
    assert (preprocess.cfg.resize_mode, preprocess.size) == (mode, size)
    image = np.zeros((*shape, 3), np.uint8)
    y, x = shape[0] // 2 - 15, shape[1] // 2 + 5
    image[y : y + 20, x : x + 20] = 255
    pixels, geometry = preprocess(Image.fromarray(image))
    own = NAMED[transform]() if isinstance(transform, str) else transform
    assert torch.equal(pixels, own(Image.fromarray(image)))
    back = geometry.to_image(pixels.mean(0).numpy())
    rows, columns = np.nonzero(back > (back.max() + back.min()) / 2)
    assert abs(rows.mean() - (y + 9.5)) <= 1.5
    assert abs(columns.mean() - (x + 9.5)) <= 1.5


WRONG_TRANSFORMS: dict[str, tuple[Any, str]] = {
    "for training": (open_clip.transform.image_transform(64, is_train=True), "step 'RandomResizedCrop'"),
    "a flip": (
        T.Compose([T.Resize(64), T.CenterCrop(64), T.RandomHorizontalFlip(1.0), T.ToTensor(), NORMALIZE]),
        "step",
    ),
    "a flip that looks like a conversion": (
        T.Compose([T.Resize(64), T.CenterCrop(64), T.ToTensor(), NORMALIZE, lambda x: x.flip(-1)]),
        "step",
    ),
    "no size": (T.Compose([T.ToTensor(), NORMALIZE]), "must resize and normalise"),
    "no normalising": (T.Compose([T.Resize((64, 64)), T.ToTensor()]), "must resize and normalise"),
    "no crop": (T.Compose([T.Resize(64), T.ToTensor(), NORMALIZE]), "centre crop"),
    "no tensor": (T.Compose([T.Resize((64, 64)), NORMALIZE]), "fails on an RGB image: .*Tensor Image"),
    "nearest": (T.Compose([T.Resize((64, 64), T.InterpolationMode.NEAREST), T.ToTensor(), NORMALIZE]), "resizes by"),
    "colours swapped": (
        T.Compose([T.Resize((64, 64)), T.ToTensor(), T.Normalize((0.5,) * 3, (0.5,) * 3)]),
        "",
    ),
    "another name": ("bioclip3", "there is no preprocessing 'bioclip3'; there are pybioclip"),
    "something else": (3, "preprocess is a torchvision transform"),
}


@pytest.mark.parametrize("name", [name for name in WRONG_TRANSFORMS if name != "colours swapped"])
def test_an_unknown_transform_is_an_error_never_a_guess(name: str) -> None:
    from finercam_clip.models.transforms import preprocess_of

    transform, message = WRONG_TRANSFORMS[name]
    with pytest.raises(InputError, match=message):
        preprocess_of(transform)


def test_a_transform_that_does_not_do_what_its_steps_say_is_found_out() -> None:
    from finercam_clip.models.transforms import preprocess_of

    class Resize(T.Resize):
        """It crops besides."""

        def forward(self, image: Any) -> Any:
            return super().forward(T.functional.center_crop(image, min(image.size) // 2))

    class Normalize(T.Normalize):
        """It swaps red and blue besides, as cv2's readers have them."""

        def forward(self, tensor: Tensor) -> Tensor:
            return super().forward(tensor.flip(0))

    for steps in (
        [Resize((64, 64)), T.ToTensor(), NORMALIZE],
        [T.Resize((64, 64)), T.ToTensor(), Normalize((0.5,) * 3, (0.5,) * 3)],
    ):
        with pytest.raises(InputError, match="besides what its steps say"):
            preprocess_of(T.Compose(steps))


# ------------------------------------------------------------------------------------------------- what is missing


def test_what_is_missing_is_said_in_one_line(processors: dict[str, Any]) -> None:
    model, transform, tokenizer = _tiny()
    hub = _hub_model("clip")
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
