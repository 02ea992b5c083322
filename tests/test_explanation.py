"""The answer: its heatmap, peak and boxes, when it should not be trusted, and how it is shown and stored."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from reference.models import BLUE, GREEN, NOISE, RED

from finercam_clip import Options, __version__
from finercam_clip.aviary import demo
from finercam_clip.errors import InputError
from finercam_clip.explainer import Explainer
from finercam_clip.explanation import Explanation
from finercam_clip.geometry import geometry_of


def explanation(grid: NDArray[np.floating], height: int = 96, width: int = 96) -> Explanation:
    """An answer with this map, seen whole by a model of 8 pixels per patch."""
    cells = grid.astype(np.float32)
    return Explanation(
        image=np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8),
        geometry=geometry_of((height, width), (cells.shape[0] * 8, cells.shape[1] * 8), "squash"),
        grid=cells,
        target="red",
        contrasts=("blue",),
        target_grid=cells,
        contrast_grid=-cells,
        similarities={"red": 0.3, "blue": 0.1},
        probabilities={"red": 0.9, "blue": 0.1},
        options=Options(),
        model="aviary",
        pretrained="bundled",
    )


def two_peaks() -> NDArray[np.float64]:
    """For the target at two places, against it everywhere else."""
    grid = np.full((12, 12), -0.1)
    grid[2, 3] = 2.0
    grid[9, 8] = 1.5
    return grid


def test_boxes_frame_each_hot_region_best_first() -> None:
    boxes = explanation(two_peaks()).boxes(0.5)
    assert len(boxes) == 2
    assert [box[4] for box in boxes] == pytest.approx([1.0, 0.75], abs=0.05)
    for (x0, y0, x1, y1, _), (row, column) in zip(boxes, [(2, 3), (9, 8)], strict=True):
        assert x0 < column * 8 + 4 < x1
        assert y0 < row * 8 + 4 < y1
        assert x1 - x0 <= 16
        assert y1 - y0 <= 16


def test_boxes_hold_exactly_the_pixels_above_the_threshold() -> None:
    answer = explanation(two_peaks(), 150, 60)
    inside = np.zeros(answer.heatmap.shape, bool)
    for x0, y0, x1, y1, score in answer.boxes(0.3):
        window = answer.heatmap[y0:y1, x0:x1]
        assert window.max() == np.float32(score)
        for edge in (window[0], window[-1], window[:, 0], window[:, -1]):
            assert (edge >= 0.3).any()
        inside[y0:y1, x0:x1] = True
    assert not (answer.heatmap[~inside] >= 0.3).any()


def test_a_higher_threshold_gives_smaller_boxes() -> None:
    def area(threshold: float) -> int:
        return sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1, _ in explanation(two_peaks()).boxes(threshold))

    assert area(0.2) > area(0.5) > area(0.9) > 0


def test_where_nothing_speaks_for_the_target_there_is_no_heat_no_box_no_peak_and_a_caution() -> None:
    answer = explanation(-np.abs(two_peaks()))
    assert not answer.heatmap.any()
    assert answer.boxes() == []
    assert answer.peak is None
    assert answer.caution == "nothing in the image speaks for the target"
    assert json.loads(answer.to_json())["peak"] is None


def test_a_map_of_zeros_has_no_heat() -> None:
    answer = explanation(np.zeros((4, 4)))
    assert answer.boxes() == []
    assert answer.peak is None
    assert np.isfinite(answer.panel()).all()


def test_evidence_against_keeps_what_speaks_for_it_faint() -> None:
    grid = np.full((12, 12), -1.0)
    grid[5, 5] = 0.1
    assert explanation(grid).heatmap.max() == pytest.approx(0.1, abs=0.02)


def test_the_peak_is_the_hottest_pixel() -> None:
    x, y = explanation(two_peaks()).peak or (-1, -1)
    assert (x, y) == pytest.approx((3.5 * 8, 2.5 * 8), abs=1)


@pytest.mark.parametrize("threshold", [0, -1, 1.5, float("nan")])
def test_a_threshold_outside_its_range_is_an_error(threshold: float) -> None:
    with pytest.raises(InputError, match="threshold"):
        explanation(two_peaks()).boxes(threshold)


@pytest.mark.parametrize("size", [(1, 1), (50, 2500), (300, 200)], ids=str)
def test_an_explanation_of_any_size_is_saved_whole(tmp_path: Path, size: tuple[int, int]) -> None:
    answer = explanation(two_peaks(), *size)
    assert answer.overlay().shape == (*size, 3)
    with Image.open(answer.save(tmp_path / "crown.png")) as read:
        np.testing.assert_array_equal(np.asarray(read), answer.panel())


def test_each_tile_says_what_it_shows_and_its_score() -> None:
    image, target, contrast, difference = explanation(two_peaks()).tiles()
    assert (target.caption, target.note) == ("red", "cosine 0.300, p 0.90")
    assert (contrast.caption, contrast.note) == ("blue", "cosine 0.100, p 0.10")
    assert (difference.caption, difference.note, difference.warning) == ("finer-strongest, gamma 1", "", False)
    assert image.marked is target.marked is contrast.marked is None
    assert difference.marked == explanation(two_peaks()).peak


def test_of_many_contrasts_three_are_shown_each_over_its_score() -> None:
    names = ("blue", "black", "white", "green", "grey")
    scores = {name: 0.01 * i for i, name in enumerate(names, 1)}
    answer = replace(
        explanation(two_peaks()),
        contrasts=names,
        similarities={"red": 0.3} | scores,
        probabilities={"red": 0.85} | scores,
    )
    contrast = answer.tiles()[2]
    assert contrast.caption == "blue\nblack\nwhite"
    assert contrast.note == "cosine 0.010, p 0.01\ncosine 0.020, p 0.02\ncosine 0.030, p 0.03\nand 2 more"


@pytest.mark.parametrize("alone", [False, True])
def test_a_map_that_should_not_be_trusted_says_so_in_its_last_tile(alone: bool) -> None:
    answer = explanation(-np.abs(two_peaks()))
    if alone:
        answer = replace(
            answer, contrasts=(), contrast_grid=None, similarities={"red": 0.3}, probabilities={"red": 1.0}
        )
    last = answer.tiles()[-1]
    assert last.warning
    assert (last.note if alone else last.caption) == answer.caution == "nothing in the image speaks for the target"
    assert last.caption == "red" or not alone
    assert not any(tile.warning for tile in answer.tiles()[:-1])


# ------------------------------------------------------------------------------------------------------------- caution


def test_a_caution_says_why_a_map_should_not_be_trusted() -> None:
    answer = explanation(two_peaks())
    assert answer.caution is None
    fits_better = replace(answer, similarities={"red": 0.1, "blue": 0.3})
    assert fits_better.caution == "the image fits 'blue' better: the target may not be there"
    below = replace(answer, present_above=0.31)
    assert below.caution == "true texts reach a similarity of 0.31: the target may not be there"
    assert replace(answer, present_above=0.3).caution is None  # reached


def test_the_gravest_reason_goes_first() -> None:
    worst = replace(
        explanation(-np.abs(two_peaks())), pretrained="random", similarities={"red": 0.1, "blue": 0.3}, present_above=1
    )
    cautions = [worst.caution]
    for mended in ({"pretrained": "bundled"}, {"grid": two_peaks()}, {"similarities": {"red": 0.3, "blue": 0.1}}):
        worst = replace(worst, **mended)
        cautions.append(worst.caution)
    fragments = ("random weights", "nothing in the image", "fits 'blue' better", "true texts reach")
    for caution, fragment in zip(cautions, fragments, strict=True):
        assert caution is not None
        assert fragment in caution


def test_of_a_text_alone_the_probability_says_nothing() -> None:
    answer = explanation(two_peaks())
    alone = replace(answer, contrasts=(), contrast_grid=None)
    assert (answer.compared, alone.compared, replace(alone, score="logit").compared) == (True, False, True)


# -------------------------------------------------------------------------------------------------------------- stored


def test_everything_but_the_pixels_is_stored_as_json() -> None:
    answer = explanation(two_peaks(), 150, 60)
    stored = json.loads(answer.to_json())
    assert stored == json.loads(json.dumps(answer.to_dict()))
    np.testing.assert_allclose(stored.pop("grid"), answer.grid, atol=1e-6)
    assert stored.pop("options") == Options().plain()
    assert stored.pop("boxes") == [list(box) for box in answer.boxes()]
    assert stored == {
        "target": "red",
        "contrasts": ["blue"],
        "similarities": {"red": 0.3, "blue": 0.1},
        "probabilities": {"red": 0.9, "blue": 0.1},
        "score": "cosine",
        "caution": None,
        "null": None,
        "peak": list(answer.peak or ()),
        "image_size": {"width": 60, "height": 150},
        "seen": [0, 0, 60, 150],
        "model": "aviary",
        "pretrained": "bundled",
        "version": __version__,
    }


# ----------------------------------------------------------------------------------------------------- of a true model


def test_an_explanation_holds_together(bundled: Explainer) -> None:
    answer = bundled.explain(demo.IMAGE, RED, [BLUE, GREEN])
    h, w = answer.image.shape[:2]
    assert answer.heatmap.shape == (h, w)
    assert answer.heatmap.dtype == np.float32
    assert 0 <= answer.heatmap.min() <= answer.heatmap.max() <= 1
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    assert list(answer.similarities) == [RED, BLUE, GREEN]
    assert answer.peak is not None
    assert answer.heatmap[answer.peak[1], answer.peak[0]] == answer.heatmap.max()
    for x0, y0, x1, y1, score in answer.boxes(0.5):
        assert 0 <= x0 < x1 <= w
        assert 0 <= y0 < y1 <= h
        assert answer.heatmap[y0:y1, x0:x1].max() == pytest.approx(score)
    stored = json.loads(answer.to_json())
    assert np.allclose(stored["grid"], answer.grid, atol=1e-5)
    assert stored["options"]["gamma"] == Options().gamma
    assert answer.overlay().shape == answer.image.shape


def test_evidence_against_the_target_keeps_the_rest_faint(bundled: Explainer) -> None:
    answer = bundled.explain(demo.IMAGE, BLUE, [RED], gamma=1)
    strongest = np.abs(answer.grid).max()
    assert answer.heatmap.max() <= max(answer.grid.max(), 0) / strongest + 1e-6
    assert answer.caution == f"the image fits '{RED}' better: the target may not be there"


@pytest.mark.parametrize("way", ["path", "symbolic link", "hard link"])
def test_the_image_that_is_explained_is_never_overwritten(tiny: Explainer, tmp_path: Path, way: str) -> None:
    image, output = tmp_path / "bird.png", tmp_path / ("bird.png" if way == "path" else "link.png")
    Image.fromarray(NOISE).save(image)
    if way == "symbolic link":
        output.symlink_to(image)
    elif way == "hard link":
        os.link(image, output)
    before = image.read_bytes()
    explanation = tiny.explain(image, RED)
    with pytest.raises(InputError, match="is the image that is explained, which is never overwritten"):
        explanation.save(output)
    assert image.read_bytes() == before
    for _ in range(2):  # its own older picture may go
        assert explanation.save(tmp_path / "panel.png").is_file()
