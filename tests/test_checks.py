"""Values as callers give them: NumPy's scalars are numbers, and what is none of what is allowed is one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference.models import BLUE, NOISE, RED

import finercam_clip
from finercam_clip import InputError, checks
from finercam_clip.explainer import Explainer

WRONG: dict[str, Callable[[Explainer], object]] = {
    "contrasts None": lambda e: e.explain(NOISE, RED, None),
    "contrasts float": lambda e: e.explain(NOISE, RED, 1.5),
    "contrasts True": lambda e: e.explain(NOISE, RED, True),
    "contrasts bytes": lambda e: e.explain(NOISE, RED, b"blue"),
    "contrasts mapping": lambda e: e.explain(NOISE, RED, {"text": BLUE}),
    "contrasts numbers": lambda e: e.explain(NOISE, RED, [1, 2]),
    "contrasts array": lambda e: e.explain(NOISE, RED, np.zeros(3)),
    "contrasts nested": lambda e: e.explain(NOISE, RED, [[[BLUE]]]),
    "contrasts negative": lambda e: e.explain(NOISE, RED, -1, vocabulary=[BLUE]),
    "target None": lambda e: e.explain(NOISE, None),
    "target number": lambda e: e.explain(NOISE, 5),
    "target empty": lambda e: e.explain(NOISE, []),
    "target mapping": lambda e: e.explain(NOISE, {}),
    "method list": lambda e: e.explain(NOISE, RED, method=[]),
    "method None": lambda e: e.explain(NOISE, RED, method=None),
    "method number": lambda e: e.explain(NOISE, RED, method=3),
    "layer empty": lambda e: e.explain(NOISE, RED, layer=()),
    "layer float": lambda e: e.explain(NOISE, RED, layer=1.5),
    "layer bool": lambda e: e.explain(NOISE, RED, layer=True),
    "layer huge": lambda e: e.explain(NOISE, RED, layer=10**30),
    "layer nested": lambda e: e.explain(NOISE, RED, layer=[[1]]),
    "gamma text": lambda e: e.explain(NOISE, RED, [BLUE], gamma="0.6"),
    "gamma None": lambda e: e.explain(NOISE, RED, [BLUE], gamma=None),
    "gamma nan": lambda e: e.explain(NOISE, RED, [BLUE], gamma=float("nan")),
    "gamma 1e20": lambda e: e.explain(NOISE, RED, [BLUE], gamma=1e20),
    "gamma 1e400": lambda e: e.explain(NOISE, RED, [BLUE], gamma=10**400),
    "gamma complex": lambda e: e.explain(NOISE, RED, [BLUE], gamma=1j),
    "objective list": lambda e: e.explain(NOISE, RED, objective=[]),
    "pooling list": lambda e: e.explain(NOISE, RED, pooling=[]),
    "refine list": lambda e: e.explain(NOISE, RED, refine=[]),
    "similar_by list": lambda e: e.explain(NOISE, RED, 1, vocabulary=[BLUE], similar_by=[]),
    "image_size three": lambda e: e.explain(NOISE, RED, image_size=(32, 32, 32)),
    "image_size text": lambda e: e.explain(NOISE, RED, image_size="large"),
    "image_size float": lambda e: e.explain(NOISE, RED, image_size=32.0),
    "image_size bool": lambda e: e.explain(NOISE, RED, image_size=True),
    "image_size huge": lambda e: e.explain(NOISE, RED, image_size=10**30),
    "templates number": lambda e: e.explain(NOISE, RED, templates=5),
    "templates numbers": lambda e: e.explain(NOISE, RED, templates=[5]),
    "templates empty": lambda e: e.explain(NOISE, RED, templates=[]),
    "vocabulary number": lambda e: e.explain(NOISE, RED, 1, vocabulary=5),
    "vocabulary mapping": lambda e: e.explain(NOISE, RED, 1, vocabulary={}),
    "background number": lambda e: e.explain(NOISE, RED, background=5),
    "unknown option": lambda e: e.explain(NOISE, RED, colour="red"),
    "image None": lambda e: e.explain(None, RED),
    "image zero byte": lambda e: e.explain("a\0b.png", RED),
    "image 0 x 0": lambda e: e.explain(np.zeros((0, 0, 3), np.uint8), RED),
    "images in explain": lambda e: e.explain([NOISE], RED),
    "embed empty": lambda e: e.embed([]),
    "embed None": lambda e: e.embed(None),
    "embed text": lambda e: e.embed("a red crown"),
    "embed numbers": lambda e: e.embed([1]),
    "batch of no list": lambda e: e.explain_batch(NOISE, [(RED, [])]),
    "batch of no pairs": lambda e: e.explain_batch([NOISE], [RED]),
    "batch None": lambda e: e.explain_batch([NOISE], None),
    "predictions of a clip": lambda e: e.encode(NOISE).predictions(),
    "predictions -1": lambda e: e.encode(NOISE).predictions(-1),
    "predictions text": lambda e: e.encode(NOISE).predictions("5"),
    "heatmaps shape": lambda e: e.encode(NOISE).heatmaps(torch.zeros(3)),
    "heatmaps width": lambda e: e.encode(NOISE).heatmaps(torch.zeros(2, 3)),
    "heatmaps nan": lambda e: e.encode(NOISE).heatmaps(torch.full_like(e.embed([RED]), torch.nan)),
    "heatmaps complex": lambda e: e.encode(NOISE).heatmaps(e.embed([RED]).to(torch.complex64)),
    "heatmaps sparse": lambda e: e.encode(NOISE).heatmaps(e.embed([RED]).to_sparse()),
    "heatmaps contrasts": lambda e: e.encode(NOISE).heatmaps([RED], torch.zeros(1, 2)),
    "boxes text": lambda e: e.explain(NOISE, RED).boxes("0.5"),
    "boxes None": lambda e: e.explain(NOISE, RED).boxes(None),
    "boxes nan": lambda e: e.explain(NOISE, RED).boxes(float("nan")),
    "opacity text": lambda e: e.explain(NOISE, RED).overlay("x"),
    "opacity nan": lambda e: e.explain(NOISE, RED).overlay(float("nan")),
    "save zero byte": lambda e: e.explain(NOISE, RED).save("a\0.png"),
    "save None": lambda e: e.explain(NOISE, RED).save(None),
    "save number": lambda e: e.explain(NOISE, RED).save(5),
    "save long": lambda e: e.explain(NOISE, RED).save("x" * 300 + ".png"),
    "load number": lambda e: finercam_clip.load(5),
    "load list": lambda e: finercam_clip.load([]),
    "load zero byte": lambda e: finercam_clip.load("ViT-B-32", "a\0b"),
    "load pretrained number": lambda e: finercam_clip.load("ViT-B-32", 5),
    "load device number": lambda e: finercam_clip.load(device=1.5),
    "load precision number": lambda e: finercam_clip.load(precision=16),
    "classifier number": lambda e: finercam_clip.load_classifier(5),
    "classifier head number": lambda e: finercam_clip.load_classifier("resnet18", 5),
    "classifier classes number": lambda e: finercam_clip.load_classifier("resnet18", classes=5, pretrained="random"),
    "wrap number": lambda e: finercam_clip.wrap(5),
    "encode number": lambda e: e.encode(5),
    "encode numbers": lambda e: e.encode([5]),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
@pytest.mark.filterwarnings("ignore:.*RANDOM")
def test_a_wrong_value_is_one_line(
    call: Callable[[Any], object], tiny: Explainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        call(tiny)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 600
    assert not list(tmp_path.iterdir())


def test_numpys_scalars_are_numbers(tiny: Explainer) -> None:
    words = [BLUE, "a bird with a green tail", "a bird with a black wing"]
    expected = tiny.explain(NOISE, RED, 2, vocabulary=words, gamma=0.5, layer=-1)
    for kind in (np.int64, np.int32, np.uint8):
        answer = tiny.explain(
            NOISE, RED, kind(2), vocabulary=words, gamma=np.float32(0.5), layer=np.int64(-1), image_size=None
        )
        np.testing.assert_array_equal(answer.grid, expected.grid)
        assert answer.to_json() == expected.to_json()
    height, width = tiny.loaded.preprocess.size
    assert tiny.encode(NOISE, image_size=(np.int64(height), np.int32(width))).grid == tiny.encode(NOISE).grid
    assert tiny.encode(NOISE, image_size=np.int64(height)).grid == tiny.encode(NOISE, image_size=height).grid
    assert expected.boxes(np.float64(0.5)) == expected.boxes(0.5)


def test_an_empty_list_of_images_is_an_empty_list(tiny: Explainer) -> None:
    assert tiny.encode([]) == []
    assert tiny.explain_batch([], [(RED, [BLUE])]) == []


@pytest.mark.parametrize(("value", "number"), [(3, 3), (np.uint8(3), 3), (True, None), (3.0, None), ("3", None)])
def test_whole_numbers(value: object, number: int | None) -> None:
    assert checks.whole(value) == number
    assert type(checks.whole(value)) in (int, type(None))


@pytest.mark.parametrize(
    ("value", "number"),
    [(3, 3.0), (np.float16(0.5), 0.5), (True, None), (float("inf"), None), (10**400, None), (1j, None)],
)
def test_real_numbers(value: object, number: float | None) -> None:
    assert checks.real(value) == number
