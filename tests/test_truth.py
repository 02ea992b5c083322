"""Truth as people have it: found beside a data set, read, and refused in one line where it does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finercam_clip import InputError
from finercam_clip.cli import main
from finercam_clip.datasets import DataSet, Truth, check, check_truth, find_truth, open_dataset
from finercam_clip.datasets.truth import differences

CUB = Path(__file__).parents[2] / "shared" / "data" / "cub-crops"
needs_cub = pytest.mark.skipif(not CUB.is_dir(), reason="no photographs of CUB-200-2011 here")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """images/cat/a.png and images/dog/b.png, 20 x 10 pixels each."""
    for name in ("cat/a.png", "dog/b.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True)
        Image.new("RGB", (20, 10), "grey").save(path)
    return tmp_path / "images"


def checked(dataset: DataSet, source: Path | None = None) -> Truth:
    truth = find_truth(dataset, source)
    check_truth(truth, ((item.name, item.path) for item in dataset.items))
    return truth


def coco(folder: Path, change: Callable[[dict[str, Any]], None] = lambda content: None) -> Path:
    """A cat and a dog in the first picture, a dog in the second."""
    content: dict[str, Any] = {
        "images": [
            {"id": 7, "file_name": "a.png", "width": 20, "height": 10},
            {"id": 9, "file_name": "dog/b.png", "width": 20, "height": 10},
        ],
        "categories": [{"id": 1, "name": "Cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"image_id": 7, "category_id": 1, "bbox": [2, 3, 5, 4]},
            {"image_id": 7, "category_id": 2, "bbox": [10, 0, 10, 10]},
            {"image_id": 9, "category_id": 2, "bbox": [0, 0, 4, 4]},
        ],
    }
    change(content)
    path = folder / "annotations.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_boxes_of_coco_are_those_of_the_images_own_class(pictures: Path) -> None:
    coco(pictures)
    truth = checked(open_dataset(pictures))
    assert truth.kinds == ("boxes of 2 images (COCO, annotations.json)",)
    mask = truth.regions["cat/a.png"].mask((10, 20))
    assert mask.sum() == 20
    assert mask[3:7, 2:7].all()
    assert truth.regions["dog/b.png"].mask((10, 20)).sum() == 16


def test_polygons_and_run_lengths_are_drawn_as_coco_draws_them(pictures: Path) -> None:
    tools = pytest.importorskip("pycocotools.mask", reason="pip install 'finercam_clip[coco]'")
    answer = np.zeros((10, 20), bool)
    answer[2:6, 4:12] = True
    encoded = tools.encode(np.asfortranarray(answer.astype(np.uint8)))
    lengths = np.diff(np.flatnonzero(np.diff(np.concatenate([[2], answer.T.ravel().astype(int), [2]]))))
    shapes = [
        [[4.0, 2.0, 12.0, 2.0, 12.0, 6.0, 4.0, 6.0]],
        {"size": [10, 20], "counts": lengths.tolist()},
        {"size": [10, 20], "counts": encoded["counts"].decode()},
    ]
    for shape in shapes:
        coco(pictures, lambda content, shape=shape: content["annotations"][0].update(segmentation=shape))
        assert (checked(open_dataset(pictures)).regions["cat/a.png"].mask((10, 20)) == answer).all()
    coco(pictures, lambda content: content["annotations"][0].update(segmentation={"size": [5, 5], "counts": [25]}))
    with pytest.raises(InputError, match="5 x 5 pixels, its image others"):
        checked(open_dataset(pictures)).regions["cat/a.png"].mask((10, 20))


def test_masks_are_found_by_name_and_a_palettes_border_is_no_part_of_them(pictures: Path) -> None:
    values = np.zeros((10, 20), np.uint8)
    values[:3], values[3] = 2, 255
    mask = Image.fromarray(values)
    (pictures.parent / "masks").mkdir()
    mask.save(pictures.parent / "masks" / "a.png")
    palette = mask.convert("P")
    palette.putdata(values.ravel().tolist())
    palette.save(pictures.parent / "masks" / "b.png")
    truth = checked(open_dataset(pictures))
    assert truth.kinds == ("masks of 2 images (masks)",)
    assert truth.regions["cat/a.png"].mask((10, 20)).sum() == 80
    assert truth.regions["dog/b.png"].mask((10, 20)).sum() == 60


def test_points_of_a_table(pictures: Path) -> None:
    path = pictures / "points.csv"
    path.write_text(
        "image,part,x,y,visible\ncat/a.png,eye,3,4,1\na.png,eye,5,4,1\nb.png,tail,1,1,0\nb.png,eye,20,10,\n"
    )
    truth = checked(open_dataset(pictures))
    assert truth.points == {"cat/a.png": {"eye": ((3, 4), (5, 4))}, "dog/b.png": {"eye": ((20, 10),)}}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda c: c["images"][0].update(width=30), "is for 30 x 10 pixels; the image has 20 x 10"),
        (lambda c: c["annotations"][0].update(bbox=[15, 3, 9, 4]), "the box of cat/a.png lies at"),
        (lambda c: c["annotations"][0].update(bbox=[15, 3]), "annotation 1 has neither a segmentation nor a box"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, "x", 4]), "'x' is no number"),
        (lambda c: c["annotations"][1].update(image_id=8), "annotation 2: there is no image"),
        (lambda c: [image.update(file_name="c.png") for image in c["images"]], "is about none of the 2 images"),
        (lambda c: c.pop("annotations"), "is no JSON file of COCO"),
    ],
)
def test_boxes_that_do_not_fit_are_one_line(
    pictures: Path, change: Callable[[dict[str, Any]], None], line: str
) -> None:
    coco(pictures, change)
    with pytest.raises(InputError, match=line):
        checked(open_dataset(pictures))
    assert any("cannot be used" in row and line in row for row in check(open_dataset(pictures)).lines())


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("image,x,y\n", "names its columns"),
        ("image,part,x,y\nc.png,eye,1,1\n", "line 2: there is no image 'c.png'"),
        ("image,part,x,y\na.png,eye,1,one\n", "line 2: 'one' is no number"),
        ("image,part,x,y\na.png,eye,1,30\n", "the eye of cat/a.png lies at"),
        ("image,part,x,y,visible\na.png,eye,1,30,0\n", "no visible point"),
    ],
)
def test_points_that_do_not_fit_are_one_line(pictures: Path, text: str, line: str) -> None:
    (pictures / "points.csv").write_text(text)
    with pytest.raises(InputError, match=line):
        checked(open_dataset(pictures))


def test_masks_of_another_size_or_of_no_image_are_one_line(pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "drawn"
    folder.mkdir()
    with pytest.raises(InputError, match="has no mask"):
        checked(open_dataset(pictures), folder)
    Image.new("L", (9, 9)).save(folder / "a.png")
    with pytest.raises(InputError, match="for 9 x 9 pixels"):
        checked(open_dataset(pictures), folder)
    (folder / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="cannot be read"):
        checked(open_dataset(pictures), folder)
    with pytest.raises(InputError, match="truth is a JSON file"):
        checked(open_dataset(pictures), folder / "a.png")
    with pytest.raises(InputError, match="no such file or folder"):
        checked(open_dataset(pictures), tmp_path / "nowhere")


def test_a_turned_photograph_is_as_wide_as_people_see_it(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (10, 20)).save(tmp_path / "cat" / "a.jpg", exif=exif)
    (tmp_path / "points.csv").write_text("image,part,x,y\na.jpg,eye,19,9\n")
    assert checked(open_dataset(tmp_path)).points


@needs_cub
def test_cub_has_boxes_points_and_attributes_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    dataset = open_dataset(CUB)
    truth = checked(dataset)
    assert len(truth.regions) == len(truth.points) == len(dataset.items)
    assert set(truth.classes) == set(dataset.classes)
    assert {part for points in truth.points.values() for part in points} == set(truth.classes[dataset.classes[0]])
    assert max(len(points.get("wing", ())) for points in truth.points.values()) == 2  # left and right are one part
    looks = truth.classes[dataset.classes[0]]
    assert all(group.sum() == pytest.approx(1) for groups in looks.values() for group in groups)
    assert set(differences(looks, looks).values()) == {0.0}
    gull = next(name for name in dataset.classes if "Herring_Gull" in name or "Gull" in name)
    cardinal = next(name for name in dataset.classes if "Cardinal" in name or "Tanager" in name or "Bunting" in name)
    assert max(differences(truth.classes[gull], truth.classes[cardinal]).values()) > 0.5
    main(["dataset", "check", str(CUB), "--quiet"])
    assert "truth        attributes of 80 classes, by 12 parts" in capsys.readouterr().out


@needs_cub
def test_attributes_of_another_number_of_classes_are_one_line(tmp_path: Path) -> None:
    for path in CUB.iterdir():
        if path.name != "attributes":
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "attributes").mkdir()
    for path in (CUB / "attributes").iterdir():
        text = path.read_text()
        lines = text.splitlines()[: -1 if path.name.startswith("class") else None]
        (tmp_path / "attributes" / path.name).write_text("\n".join(lines))
    with pytest.raises(InputError, match="79 rows for 80 classes"):
        find_truth(open_dataset(tmp_path))
