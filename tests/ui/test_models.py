"""The models of the page: which are on this machine, and which one comes first. The cache is a made-up folder."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
from huggingface_hub import constants

from finercam_clip.errors import InputError
from finercam_clip.explainer import Explainer
from finercam_clip.ui import models
from finercam_clip.ui.models import downloaded, first_model, model_named, model_names, name_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached(cache: Path, repository: str, name: str, data: bytes) -> None:
    """Puts a file into a cache as the hub's client lays it out."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    file = folder / "snapshots" / COMMIT / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(COMMIT)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache. Nothing can be fetched either."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.get_hf_file_metadata", lambda *_, **__: pytest.fail("a request"))
    return tmp_path


def repository_of(name: str, tag: str) -> str:
    return str(open_clip.get_pretrained_cfg(name, tag)["hf_hub"]).rstrip("/")


def test_an_empty_or_missing_cache_has_no_models(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert downloaded() == []
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "missing"))
    assert downloaded() == []


def test_what_was_downloaded_is_known_by_name_the_smallest_first(cache: Path) -> None:
    cached(cache, repository_of("ViT-L-14", "laion2b_s32b_b82k"), "open_clip_pytorch_model.bin", bytes(300))
    cached(cache, repository_of("ViT-B-32", "laion2b_s34b_b79k"), "open_clip_model.safetensors", bytes(200))
    config = {"model_cfg": open_clip.get_model_config("ViT-B-16")}
    cached(cache, "someone/birds-clip", "open_clip_config.json", json.dumps(config).encode())
    cached(cache, "someone/birds-clip", "open_clip_model.safetensors", bytes(100))
    assert downloaded() == ["hf-hub:someone/birds-clip", "ViT-B-32 laion2b_s34b_b79k", "ViT-L-14 laion2b_s32b_b82k"]
    assert model_names()[:4] == ["aviary", "birds", "photos", "hf-hub:someone/birds-clip"]
    assert len(model_names()) == len(set(model_names()))


def test_what_is_no_clip_or_has_no_weights_is_left_out(cache: Path) -> None:
    cached(cache, repository_of("ViT-B-32", "laion2b_s34b_b79k"), "README.md", b"no weights yet")
    cached(cache, "someone/else", "model.safetensors", bytes(10))
    cached(cache, "someone/broken", "open_clip_config.json", b"{")
    cached(cache, "someone/broken", "open_clip_model.safetensors", bytes(10))
    (cache / "models--someone--empty").mkdir()
    assert downloaded() == []


def test_weights_of_two_architectures_are_first_those_of_the_right_activation(cache: Path) -> None:
    cached(cache, repository_of("ViT-B-16", "openai"), "open_clip_model.safetensors", bytes(10))
    assert downloaded() == ["ViT-B-16-quickgelu openai", "ViT-B-16 openai"]


def load_order(monkeypatch: pytest.MonkeyPatch, bundled: Explainer, failing: set[str]) -> list[str]:
    """The models that `first_model` tries, if those in `failing` cannot be loaded."""
    tried: list[str] = []

    def attempt(name: str, **_: object) -> Explainer:
        tried.append(name)
        if name in failing:
            raise InputError("not here")
        return bundled

    monkeypatch.setattr(models, "model_named", attempt)
    assert first_model() is bundled
    return tried


def test_the_page_opens_with_photographs_where_it_can(
    cache: Path, bundled: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_order(monkeypatch, bundled, set()) == ["birds"]
    assert load_order(monkeypatch, bundled, {"birds"}) == ["birds", "aviary"]
    cached(cache, repository_of("ViT-B-32", "laion2b_s34b_b79k"), "open_clip_model.safetensors", bytes(200))
    clip = "ViT-B-32 laion2b_s34b_b79k"
    assert load_order(monkeypatch, bundled, set()) == [clip]
    assert load_order(monkeypatch, bundled, {clip}) == [clip, "birds"]
    assert load_order(monkeypatch, bundled, {clip, "birds"}) == [clip, "birds", "aviary"]


def test_a_wrong_device_is_an_error_all_the_same(cache: Path) -> None:
    with pytest.raises(InputError, match="the device 'abacus' cannot be used"):
        first_model(device="abacus")


def test_a_loaded_model_goes_by_a_name_that_loads_it_again(
    bundled: Explainer, vit_b_16: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert name_of(bundled) == "aviary"
    assert name_of(vit_b_16) == "ViT-B-16 random"
    calls: list[tuple[str | None, str | None]] = []
    monkeypatch.setattr("finercam_clip.models.load", lambda name, tag, **_: calls.append((name, tag)))
    for name in ("aviary", "ViT-B-16 random", "hf-hub:someone/birds-clip"):
        model_named(name)
    assert calls == [("aviary", None), ("ViT-B-16", "random"), ("hf-hub:someone/birds-clip", None)]
