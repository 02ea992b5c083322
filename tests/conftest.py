"""Models for the tests: small random ones of the true architecture, the bundled one, and a full-size random one."""

from __future__ import annotations

from typing import Any

import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg

import finercam_clip
from finercam_clip.explainer import Explainer
from finercam_clip.models import LoadedModel


def tiny_explainer(seed: int = 0, *, quick_gelu: bool = False, **vision: Any) -> Explainer:
    """A small random CLIP, every parameter away from its special value (no zero biases, no unit gains)."""
    settings = {"image_size": (32, 48), "patch_size": 8, "layers": 3, "width": 64, "head_width": 16} | vision
    text = {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(embed_dim=32, vision_cfg=settings, text_cfg=text, quick_gelu=quick_gelu)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.2 * torch.randn_like(parameter))
            model.logit_scale.fill_(3.0)
    model.eval().requires_grad_(False)
    preprocess = PreprocessCfg(size=settings["image_size"])
    return Explainer(
        LoadedModel(
            name="tiny",
            pretrained="test",
            model=model,
            preprocess_cfg=preprocess,
            tokenizer=open_clip.SimpleTokenizer(context_length=32),
            known_tokens=None,
            device=torch.device("cpu"),
        )
    )


@pytest.fixture(scope="session")
def tiny() -> Explainer:
    return tiny_explainer()


@pytest.fixture(scope="session")
def bundled() -> Explainer:
    return finercam_clip.load()


@pytest.fixture(scope="session")
def vit_b_16() -> Explainer:
    return finercam_clip.load("ViT-B-16", pretrained="random")


@pytest.fixture
def bundled_once(bundled: Explainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets commands that load the bundled model share one: for tests about the question, not about loading."""

    load = finercam_clip.load

    def load_once(
        name: str | None = None, pretrained: str | None = None, *, device: str | None = None, precision: str = "fp32"
    ) -> Explainer:
        if (name, pretrained, device, precision) == (None, None, None, "fp32"):
            return bundled
        return load(name, pretrained, device=device, precision=precision)

    monkeypatch.setitem(vars(finercam_clip), "load", load_once)  # setattr would not take it away again
