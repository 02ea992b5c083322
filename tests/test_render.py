"""Pictures for the eye: colour, overlays, panels, sheets, and their files."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFont

from finercam_clip import render
from finercam_clip.errors import InputError
from finercam_clip.render import (
    FORMATS,
    TILE,
    Picture,
    Tile,
    check_output,
    colour,
    overlay,
    panel,
    positive,
    sheet,
    write_picture,
)

SIZES = [(1, 1), (1, 50), (50, 2500), (2500, 50), (2000, 1500), (333, 500)]  # (height, width)
CAPTIONS = ["", "a bird with a red crown", "ein Vogel mit grünem Schopf", "赤い冠の鳥" * 30, "🐦 птица", "x" * 400]


def picture(height: int, width: int) -> Picture:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


WHITE = np.full((90, 90, 3), 255, np.uint8)
LONG = "a bird with a red crown, a plain yellow breast, a black wing, a long forked blue tail and a thin curved beak"


def inks(picture: Picture, top: int, spacing: int) -> list[str]:
    """The ink of each line of text from a row of pixels on, down to the last line that has any."""
    lines = [
        _ink(picture[y : y + spacing].reshape(-1, 3).min(0).astype(int))
        for y in range(top, picture.shape[0] - spacing + 1, spacing)
    ]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _ink(darkest: NDArray[np.int_]) -> str:
    """What a line is written in, by its darkest red, green and blue."""
    if darkest.min() > 230:
        return ""
    if darkest[0] - darkest[1] > 80:
        return "red"
    return "ink" if darkest[1] < 80 else "grey"


def inks_of_panel(*tiles: Tile) -> list[str]:
    return inks(panel(tiles), 34 + TILE + 8, 20)


def inks_of_sheet(tile: Tile) -> list[str]:
    return inks(sheet([tile], 1), 12 + 180 + 4, 18)


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


# ------------------------------------------------------------------------------------------------------------ positive


def test_the_positive_part_is_over_its_scale_and_evidence_against_is_nothing() -> None:
    grid = np.array([[-3, -0.5, 0], [0.5, 1, 2]], np.float32)
    heat = positive(grid, 2)
    assert heat.dtype == np.float32
    np.testing.assert_array_equal(heat, [[0, 0, 0], [0.25, 0.5, 1]])
    np.testing.assert_array_equal(grid, np.array([[-3, -0.5, 0], [0.5, 1, 2]], np.float32))


def test_over_a_scale_of_0_there_is_nothing() -> None:
    heat = positive(np.zeros((3, 4), np.float32), 0.0)
    assert (heat.dtype, heat.shape) == (np.float32, (3, 4))
    assert not heat.any()


def test_maps_as_they_are_stored_are_scaled_in_float32() -> None:
    """A third of float16's largest number is not rounded to float16."""
    heat = positive(np.array([1, 65504], np.float16), 3)
    assert heat.dtype == np.float32
    np.testing.assert_array_equal(heat, np.array([1, 65504], np.float32) / np.float32(3))


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
    assert " ".join(render.wrapped(text, 360)) == text
    assert "".join(render.wrapped("x" * 400, 200)) == "x" * 400
    image = picture(10, 10)
    assert panel([Tile(image, "", text)]).shape[0] > panel([Tile(image, "", "short")]).shape[0] + 40


@pytest.mark.parametrize("text", ["x" * 500, "iW" * 200, "赤い冠の鳥" * 60, "AVAToffi" * 60])
@pytest.mark.parametrize("width", [180, 200, 360])
def test_a_word_too_wide_for_a_line_fills_each_to_the_last_letter(text: str, width: int) -> None:
    length = ImageFont.load_default(14).getlength
    lines = render.wrapped(text, width)
    assert "".join(lines) == text
    assert all(length(line) <= width for line in lines)
    assert all(length(line + after[0]) > width for line, after in pairwise(lines))


def test_a_line_too_narrow_for_a_letter_has_one() -> None:
    assert render.wrapped("WWW i", 3) == ["W", "W", "W", "i"]


def test_a_word_of_any_length_is_wrapped_by_measuring_each_letter_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    measure, measured = ImageFont.FreeTypeFont.getlength, []

    def counted(font: ImageFont.FreeTypeFont, text: str) -> float:
        measured.append(len(text))
        return measure(font, text)

    monkeypatch.setattr(ImageFont.FreeTypeFont, "getlength", counted)
    for count in (2_000, 20_000):
        measured.clear()
        lines = render.wrapped("x" * count, 200)
        assert "".join(lines) == "x" * count
        assert len(measured) < 20 * len(lines)
        assert sum(measured) < 20 * count


def test_lines_of_a_caption_are_kept() -> None:
    assert render.wrapped("a red crown\ncosine 0.3", 360) == ["a red crown", "cosine 0.3"]


def test_a_caption_is_in_ink_however_it_wraps_and_its_note_in_grey() -> None:
    assert inks_of_panel(Tile(WHITE, "", "a red crown")) == ["ink"]
    assert inks_of_panel(Tile(WHITE, "", "a red crown\na blue crown")) == ["ink", "ink"]
    assert inks_of_panel(Tile(WHITE, "", "a red crown", note="p 0.98")) == ["ink", "grey"]
    assert inks_of_panel(Tile(WHITE, "", LONG)) == ["ink", "ink"]
    assert inks_of_panel(Tile(WHITE, "", LONG, note=LONG)) == ["ink", "ink", "grey", "grey"]
    assert inks_of_panel(Tile(WHITE, "", "", note="p 0.98")) == ["grey"]


def test_each_line_of_a_note_is_under_its_line_of_the_caption() -> None:
    captions, notes = f"a red crown\n{LONG}\na blue crown", "p 0.98\np 0.01\np 0.01\nand 2 more"
    expected = ["ink", "grey", "ink", "ink", "grey", "ink", "grey", "grey"]
    assert inks_of_panel(Tile(WHITE, "", captions, note=notes)) == expected


def test_a_warning_is_in_red_and_what_it_is_about_in_ink() -> None:
    assert inks_of_panel(Tile(WHITE, "", LONG, warning=True)) == ["red", "red"]
    assert inks_of_panel(Tile(WHITE, "", LONG, note=LONG, warning=True)) == ["ink", "ink", "red", "red"]


@pytest.mark.parametrize("place", [(60, 30), (0, 0), (89, 89)])
def test_a_mark_is_a_ring_around_its_pixel(place: tuple[int, int]) -> None:
    image = np.full((90, 90, 3), 128, np.uint8)
    plain, marked = (panel([Tile(image, "", "x", marked=mark)]) for mark in (None, place))
    rows, columns = np.nonzero((plain != marked).any(2))
    scale, x, y = TILE / 90, place[0] + 0.5, place[1] + 0.5
    middle = (columns.min() + columns.max()) / 2 - 16, (rows.min() + rows.max()) / 2 - 34
    assert middle == pytest.approx((x * scale, y * scale), abs=1)
    pixel = round(34 + y * scale), round(16 + x * scale)
    np.testing.assert_array_equal(marked[pixel], plain[pixel])  # nothing of the pixel itself is hidden


# --------------------------------------------------------------------------------------------------------------- sheet


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 4, 1), (4, 4, 1), (5, 4, 2), (9, 4, 3), (3, 1, 3)])
def test_a_sheet_has_every_tile_in_rows(count: int, columns: int, rows: int) -> None:
    colours = [(20 * i, 250 - 20 * i, 128) for i in range(count)]
    drawn = sheet([Tile(np.full((40, 40, 3), ink, np.uint8), "", "") for ink in colours], columns, side=50)
    for i, ink in enumerate(colours):
        y, x = np.argwhere((drawn == ink).all(2)).min(0)
        assert (drawn[y : y + 50, x : x + 50] == ink).all()
        assert (y - 12) // 60 == i // columns
        assert x == 12 + 62 * (i % columns)
    assert drawn.shape == (12 + 60 * rows, 12 + 62 * min(count, columns), 3)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_picture_of_any_shape_is_whole_in_the_middle_of_its_square_and_marked_at_its_place(
    size: tuple[int, int],
) -> None:
    image, place = np.full((*size, 3), 128, np.uint8), (size[1] // 3, size[0] // 4)
    plain, marked = (sheet([Tile(image, "", "", marked=mark)], 1) for mark in (None, place))
    rows, columns = np.nonzero((plain == 128).all(2))
    factor = 180 / max(size)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == pytest.approx([max(side * factor, 1) for side in size], abs=0.5)
    assert (rows.mean() + 0.5, columns.mean() + 0.5) == pytest.approx((12 + 90, 12 + 90), abs=0.6)
    rows, columns = np.nonzero((plain != marked).any(2))
    top, left = (12 + 90 - side * factor / 2 for side in size)
    expected = (top + (place[1] + 0.5) * factor, left + (place[0] + 0.5) * factor)
    assert ((rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2) == pytest.approx(expected, abs=1)


def test_on_a_sheet_the_title_is_in_ink_however_it_wraps_and_what_is_under_it_in_grey() -> None:
    title = "a bird with a red crown and a blue tail"
    assert inks_of_sheet(Tile(WHITE, title, "")) == ["ink", "ink"]
    assert inks_of_sheet(Tile(WHITE, title, "p 0.98")) == ["ink", "ink", "grey"]
    assert inks_of_sheet(Tile(WHITE, "bird.png", "a red crown", note="p 0.98")) == ["ink", "grey", "grey"]
    assert inks_of_sheet(Tile(WHITE, title, "0.11: not there?", warning=True)) == ["ink", "ink", "red"]


def test_on_a_sheet_no_title_is_so_long_that_a_score_is_lost() -> None:
    assert inks_of_sheet(Tile(WHITE, LONG, "p 0.98")) == ["ink", "ink", "ink", "grey"]
    assert inks_of_sheet(Tile(WHITE, LONG, "a red crown", note="p 0.98")) == ["ink", "ink", "grey", "grey"]
    assert inks_of_sheet(Tile(WHITE, LONG, LONG)) == ["ink", "grey", "grey", "grey"]


def test_a_sheets_title_is_above_its_tiles() -> None:
    plain, titled = sheet([Tile(WHITE, "", "")], 1), sheet([Tile(WHITE, "", "")], 1, title="12 images")
    assert not (titled[:34] == 255).all()
    np.testing.assert_array_equal(titled[34:], plain[12:])


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


def test_a_failure_while_writing_leaves_the_older_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = write_picture(tmp_path / "crown.png", picture(3, 3))
    before = path.read_bytes()
    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(InputError, match="No space left on device"):
        write_picture(path, picture(9, 9))
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


def test_a_picture_that_a_format_cannot_hold_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not fit the format"):
        write_picture(tmp_path / "crown.webp", np.zeros((2, 20000, 3), np.uint8))
    assert not list(tmp_path.iterdir())


def test_a_caption_of_eight_thousand_letters_is_wrapped_at_once() -> None:
    """What is measured is a small multiple of what is shown, however long a word is."""
    image = np.zeros((64, 64, 3), np.uint8)
    began = time.monotonic()
    for text in ("w" * 8000, "\u8d64" * 8000, "red " * 2000):
        sheet([Tile(image, text, text, note=text)], 1)
        panel([Tile(image, "image", text, note=text)])
    assert time.monotonic() - began < 20
