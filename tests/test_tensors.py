"""What is not finite, or no dense matrix of real numbers, is an error where it is loaded."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from reference.models import BLUE, NOISE, RED, model_of
from safetensors.torch import save_file
from torch import Tensor

import finercam_clip
from finercam_clip import InputError
from finercam_clip.explainer import Explainer
from finercam_clip.models.heads import read_head
from finercam_clip.tensors import unusable

WEIGHT = torch.arange(12.0).reshape(3, 4)
UNUSABLE: dict[str, Callable[[], Tensor]] = {
    "nan": lambda: WEIGHT / 0,
    "infinite": lambda: torch.full((3, 4), torch.inf),
    "meta": lambda: WEIGHT.to("meta"),
    "sparse": lambda: WEIGHT.to_sparse(),
    "csr": lambda: WEIGHT.to_sparse_csr(),
    "complex": lambda: WEIGHT.to(torch.complex64),
    "quantized": lambda: torch.quantize_per_tensor(WEIGHT, 0.1, 0, torch.qint8),
    "too large for 32 bits": lambda: WEIGHT.double() * 1e200,
}


@pytest.mark.parametrize("make", UNUSABLE.values(), ids=UNUSABLE)
@pytest.mark.filterwarnings("ignore")
def test_a_head_of_other_numbers_is_refused(make: Callable[[], Tensor], tmp_path: Path) -> None:
    assert unusable(make())
    torch.save({"weight": make()}, tmp_path / "head.pth")
    with pytest.raises(InputError, match=r"head\.pth") as caught:
        read_head(tmp_path / "head.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_other_real_numbers_are_taken(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.save({"weight": WEIGHT.to(dtype)}, tmp_path / "head.pth")
    weight, bias = read_head(tmp_path / "head.pth")
    assert weight.dtype == bias.dtype == torch.float32
    torch.testing.assert_close(weight, WEIGHT.to(dtype).float())


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["visual.conv1.weight", "visual.proj", "token_embedding.weight", "logit_scale"])
def test_a_checkpoint_with_weights_that_are_not_finite_is_refused(
    value: float, name: str, bundled: Explainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finercam_clip.models import catalogue, openclip

    folder = tmp_path / "model"
    folder.mkdir()
    for file in catalogue.BUNDLED_MODELS[catalogue.BUNDLED].glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    state = {key: tensor.clone().contiguous() for key, tensor in model_of(bundled).state_dict().items()}
    state[name].view(-1)[0] = value
    save_file(state, folder / "open_clip_model.safetensors")
    with pytest.raises(InputError, match="finite") as caught:
        finercam_clip.load(f"local-dir:{folder}")
    assert name in str(caught.value)
    assert openclip is not None


@pytest.mark.filterwarnings("ignore:.*RANDOM")
def test_a_model_in_memory_with_weights_that_are_not_finite_is_refused(tiny: Explainer) -> None:
    model = copy.deepcopy(model_of(tiny))
    with torch.no_grad():
        next(model.visual.parameters()).view(-1)[0] = torch.nan
    with pytest.raises(InputError, match="finite"):
        finercam_clip.wrap(model, tokenizer=open_clip.get_tokenizer("ViT-B-32"))


def test_what_is_not_finite_never_becomes_an_explanation(tiny: Explainer) -> None:
    explanation = tiny.explain(NOISE, RED, [BLUE])
    from dataclasses import replace

    changes: list[dict[str, Any]] = [
        {"grid": np.full_like(explanation.grid, np.nan)},
        {"target_grid": np.full_like(explanation.grid, np.inf)},
        {"similarities": {RED: float("nan"), BLUE: 0.0}},
    ]
    for change in changes:
        with pytest.raises(InputError, match="not finite"):
            replace(explanation, **change)


@pytest.mark.parametrize("gamma", [1e3, 1e6])
def test_the_largest_gamma_gives_finite_maps_for_every_method(gamma: float, tiny: Explainer) -> None:
    for method in ("hirescam", "gradcam", "gradcam++", "layercam", "xgradcam", "maskclip", "legrad"):
        explanation = tiny.explain(NOISE, RED, [BLUE], gamma=gamma, method=method)
        assert np.isfinite(explanation.grid).all()
        assert "NaN" not in explanation.to_json()
        assert "Infinity" not in explanation.to_json()


SPELLINGS = ["a bird with a red crown.", "A  bird with a Red crown!", "a bird with a red crown ."]


@pytest.mark.parametrize("other", SPELLINGS)
def test_the_same_text_in_another_spelling_gives_a_faint_map_and_a_caution(other: str, bundled: Explainer) -> None:
    from finercam_clip.aviary import demo

    try:
        explanation = bundled.explain(demo.IMAGE, RED, [other], gamma=1.0)
    except InputError as error:  # it is the same to the letter, once it is read
        pytest.skip(str(error))
    share = np.abs(explanation.grid).max() / np.abs(explanation.target_grid).max()
    if share >= 0.05:
        pytest.skip("the model tells these apart")
    assert explanation.caution is not None
    assert "nearly the same" in explanation.caution
    assert explanation.heatmap.max() < 0.6
