"""Pictures for the eye, and files that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from finercam_clip import render
from finercam_clip.errors import InputError
from finercam_clip.explanation import Explanation
from finercam_clip.images import geometry_of
from finercam_clip.options import Options
from finercam_clip.render import FORMATS, Picture, Tile, check_output, colour, overlay, panel, write_picture

SIZES = [(1, 1), (1, 50), (50, 2500), (2500, 50), (2000, 1500), (333, 500)]  # (height, width)
CAPTIONS = ["", "a bird with a red crown", "ein Vogel mit grünem Schopf", "赤い冠の鳥" * 30, "🐦 птица", "x" * 400]


def picture(height: int, width: int) -> Picture:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def explanation(grid: np.ndarray, height: int = 96, width: int = 96) -> Explanation:
    """An answer with a given map, seen whole by a model of 8 pixels a patch."""
    cells = grid.astype(np.float32)
    return Explanation(
        image=picture(height, width),
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


# -------------------------------------------------------------------------------------------------------------- colour


def test_more_heat_is_lighter() -> None:
    ramp = colour(np.linspace(0, 1, 256, dtype=np.float32)[None])[0]
    lightness = cv2.cvtColor(ramp[None], cv2.COLOR_RGB2LAB)[0, :, 0].astype(int)
    assert (np.diff(lightness) >= -1).all()
    assert lightness[-1] - lightness[0] > 200


def test_hot_is_yellow_and_cold_is_black_in_rgb_order() -> None:
    cold, middle, hot = colour(np.array([[0, 0.5, 1]], np.float32))[0].astype(int)
    assert cold.max() < 20
    assert middle[0] > middle[2] + 50
    assert hot[0] > 200
    assert hot[1] > 200


def test_heat_outside_its_range_is_the_ranges_end() -> None:
    np.testing.assert_array_equal(*(colour(np.array([heat], np.float32)) for heat in ([-3, 9], [0, 1])))


# ------------------------------------------------------------------------------------------------------------- overlay


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_an_overlay_has_the_pictures_own_shape(size: tuple[int, int]) -> None:
    drawn = overlay(picture(*size), np.full(size, 0.5, np.float32), seen=(0, 0, size[1], size[0]))
    assert drawn.shape == (*size, 3)
    assert drawn.dtype == np.uint8


def test_without_heat_an_overlay_has_no_colour() -> None:
    drawn = overlay(picture(20, 30), np.zeros((20, 30), np.float32)).astype(int)
    assert np.ptp(drawn, axis=2).max() <= 1


def test_full_heat_at_full_opacity_is_the_colour_map() -> None:
    drawn = overlay(picture(4, 4), np.ones((4, 4), np.float32), opacity=1)
    np.testing.assert_array_equal(drawn, colour(np.ones((4, 4), np.float32)))


def test_what_the_model_did_not_see_is_darker() -> None:
    flat = np.full((20, 30, 3), 128, np.uint8)
    drawn = overlay(flat, np.zeros((20, 30), np.float32), seen=(10, 5, 20, 15))
    assert len(np.unique(drawn[5:15, 10:20])) == 1
    assert drawn[5, 10, 0] > 2 * drawn[4, 10, 0]
    assert drawn[5, 10, 0] > 2 * drawn[5, 20, 0]


def test_an_overlay_leaves_its_inputs_as_they_were() -> None:
    image, heat = picture(9, 9), np.full((9, 9), 0.5, np.float32)
    before = image.copy(), heat.copy()
    overlay(image, heat, seen=(2, 2, 5, 5))
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(heat, before[1])


@pytest.mark.parametrize("opacity", [-0.1, 1.1, float("nan")])
def test_an_opacity_outside_0_to_1_is_an_error(opacity: float) -> None:
    with pytest.raises(InputError, match="opacity lies between 0 and 1"):
        overlay(picture(2, 2), np.zeros((2, 2), np.float32), opacity=opacity)


# --------------------------------------------------------------------------------------------------------------- panel


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_panel_is_of_readable_size_whatever_the_picture(size: tuple[int, int], count: int) -> None:
    drawn = panel([Tile(picture(*size), "image", "a bird", marked=(size[1] - 1, size[0] - 1))] * count)
    assert drawn.dtype == np.uint8
    assert drawn.ndim == 3
    assert drawn.shape[2] == 3
    assert count * 200 < drawn.shape[1] < count * 400 + 50
    assert 60 < drawn.shape[0] < 600


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_panel_shows_each_tiles_picture(size: tuple[int, int]) -> None:
    inks = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
    drawn = panel([Tile(np.full((*size, 3), ink, np.uint8), "", "") for ink in inks])
    areas = [int((drawn == ink).all(2).sum()) for ink in inks]
    longest = 360
    expected = max(round(size[0] * longest / max(size)), 1) * max(round(size[1] * longest / max(size)), 1)
    assert areas == [expected] * 3


@pytest.mark.parametrize("caption", CAPTIONS, ids=[0, "plain", "umlaut", "no spaces", "symbols", "one word"])
def test_a_caption_of_any_script_and_length_stays_in_its_column(caption: str) -> None:
    image = np.full((100, 100, 3), 255, np.uint8)
    empty = panel([Tile(image, "", ""), Tile(image, "", "")])
    drawn = panel([Tile(image, "", caption), Tile(image, "", "")])
    assert drawn.shape[1] == empty.shape[1]
    column = (drawn.shape[1] - 16) // 2
    assert (drawn[:, column + 12 :] == 255).all()
    assert caption == "" or not (drawn[:, :column] == 255).all()


def test_a_longer_caption_makes_a_taller_panel_and_loses_no_word() -> None:
    text = " ".join(f"word{i}" for i in range(60))
    assert " ".join(render._wrapped(text, 360)) == text
    assert "".join(render._wrapped("x" * 400, 200)) == "x" * 400
    image = picture(10, 10)
    assert panel([Tile(image, "", text)]).shape[0] > panel([Tile(image, "", "short")]).shape[0] + 40


def test_lines_of_a_caption_are_kept() -> None:
    assert render._wrapped("a red crown\ncosine 0.3", 360) == ["a red crown", "cosine 0.3"]


def test_a_mark_is_drawn_at_its_place_and_a_warning_in_red() -> None:
    image = np.full((90, 90, 3), 128, np.uint8)
    plain, marked = (panel([Tile(image, "", "x", marked=place)]) for place in (None, (60, 30)))
    rows, columns = np.nonzero((plain != marked).any(2))
    scale = 360 / 90
    assert (columns.mean() - 16, rows.mean() - 34) == pytest.approx((60.5 * scale, 30.5 * scale), abs=1)
    warned = panel([Tile(image, "", "x", warning=True)]).astype(int)
    assert ((warned[..., 0] - warned[..., 1]) > 100).any()
    assert not ((plain.astype(int)[..., 0] - plain.astype(int)[..., 1]) > 100).any()


# --------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("suffix", [*FORMATS, ".PNG"])
def test_a_picture_is_written_in_every_format_and_reads_back(tmp_path: Path, suffix: str) -> None:
    flat = np.full((20, 30, 3), (200, 120, 40), np.uint8)
    path = write_picture(tmp_path / f"crown{suffix}", flat)
    assert path == tmp_path / f"crown{suffix}"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    with Image.open(path) as read:
        assert np.abs(np.asarray(read.convert("RGB")).astype(int) - flat).max() < 8


def test_a_png_is_lossless(tmp_path: Path) -> None:
    with Image.open(write_picture(tmp_path / "crown.png", picture(17, 5))) as read:
        np.testing.assert_array_equal(np.asarray(read), picture(17, 5))


def test_an_older_picture_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "crown.png").write_bytes(b"old")
    write_picture(str(tmp_path / "crown.png"), picture(3, 3))
    assert (tmp_path / "crown.png").read_bytes()[1:4] == b"PNG"


def test_a_written_picture_can_be_read_by_whom_the_umask_allows(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        assert write_picture(tmp_path / "crown.png", picture(3, 3)).stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)


@pytest.mark.parametrize("name", ["crown.gif", "crown.txt", "crown", "crown.png.exe", ".png"])
def test_another_ending_is_an_error_that_lists_the_allowed(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="a picture's name ends in") as caught:
        write_picture(tmp_path / name, picture(3, 3))
    assert all(suffix in str(caught.value) for suffix in FORMATS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["missing/crown.png", "file/crown.png", "c" * 300 + ".png", "folder.png"])
@pytest.mark.parametrize("write", [True, False], ids=["write_picture", "check_output"])
def test_a_place_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path: Path, name: str, write: bool) -> None:
    (tmp_path / "file").write_text("a file, not a folder")
    (tmp_path / "folder.png").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError) as caught:
        write_picture(tmp_path / name, picture(3, 3)) if write else check_output(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_check_output_creates_nothing(tmp_path: Path) -> None:
    assert check_output(str(tmp_path / "crown.png")) == tmp_path / "crown.png"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("step", ["replace", "fdopen"])
def test_a_failure_while_writing_leaves_the_older_picture_and_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "crown.png").write_bytes(b"old")
    monkeypatch.setattr(os, step, full_disk)
    with pytest.raises(InputError, match="No space left on device") as caught:
        write_picture(tmp_path / "crown.png", picture(3, 3))
    assert str(tmp_path / "crown.png") in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["crown.png"]
    assert (tmp_path / "crown.png").read_bytes() == b"old"


def test_an_interruption_while_writing_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_picture(tmp_path / "crown.png", picture(3, 3))
    assert not list(tmp_path.iterdir())


def test_a_picture_that_a_format_cannot_hold_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not fit the format"):
        write_picture(tmp_path / "crown.webp", np.zeros((2, 20000, 3), np.uint8))
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------------------------- explanation


def two_peaks() -> np.ndarray:
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


def test_where_nothing_speaks_for_the_target_there_are_no_boxes_and_no_peak() -> None:
    answer = explanation(-np.abs(two_peaks()))
    assert answer.boxes() == []
    assert answer.peak is None
    assert answer.caution is not None
    assert not answer.heatmap.any()


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
