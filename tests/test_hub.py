"""Models of Hugging Face: their own scores, right gradients, cells where they look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from reference.hub import KINDS, hub_model
from reference.models import BLUE, RED
from reference.towers import check_gradient
from reference.unchanged import unchanged
from skimage import data
from torch import Tensor

import finercam_clip
from finercam_clip import InputError
from finercam_clip.methods import METHODS, perturbation
from finercam_clip.towers.closed import QueryTail

CHELSEA = data.chelsea()


@pytest.fixture(autouse=True)
def _few_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perturbation, "RISE_MASKS", 32)


def _features(output: Any) -> Tensor:
    """What `get_image_features` gives: a tensor in transformers 4, an output in 5."""
    features: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return F.normalize(features, dim=-1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_hugging_faces_models_have_their_own_scores_and_right_gradients(
    kind: str, implementation: str, processors: dict[str, Any]
) -> None:
    model, processor = hub_model(kind), processors[kind]
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
        check_gradient(tower, encoding.forward.tail, encoding.forward.pixels, tolerance=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_method_that_says_it_works_works(kind: str, processors: dict[str, Any]) -> None:
    explainer = finercam_clip.wrap(hub_model(kind), processors[kind])
    encoding = explainer.encode(CHELSEA)
    refused = []
    for method in METHODS:
        try:
            grid = encoding.explain(RED, [BLUE], method=method, gamma=0.6).grid
        except InputError:
            refused.append(method)
            continue
        assert grid.shape == encoding.grid
        assert np.isfinite(grid).all()
        assert np.abs(grid).max() > 0, method
    assert refused == ([] if kind == "clip" else ["grad-eclip", "chefer", "rollout"])


@pytest.mark.parametrize("kind", KINDS)
def test_another_input_size_of_hugging_faces(kind: str, processors: dict[str, Any]) -> None:
    model = hub_model(kind)
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
    theirs = hub_model("clip")
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
    model = hub_model("clip")
    model.save_pretrained(tmp_path)
    processors["clip"].save_pretrained(tmp_path)
    loaded = finercam_clip.load(f"hf:{tmp_path}")
    one, two = (e.explain(CHELSEA, RED, [BLUE]) for e in (loaded, finercam_clip.wrap(model, processors["clip"])))
    np.testing.assert_allclose(one.grid, two.grid, rtol=1e-5, atol=1e-6 * np.abs(two.grid).max())
    with pytest.raises(InputError, match=r"could not be (loaded|downloaded)"):
        finercam_clip.load(f"hf:{tmp_path}/none")
    with pytest.raises(InputError, match="its own weights"):
        finercam_clip.load(f"hf:{tmp_path}", "openai")
