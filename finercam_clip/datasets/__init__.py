"""Data sets: folders and files become a list of images, each with the question about it. Only `check` decodes images.

items    what a data set is: `Item`, `DataSet`
folders  folders of images, with or without classes
cub      CUB-200-2011 in its original layout
streamed images in tars, in tables of Hugging Face, in object stores
lists    list files and CSV files of questions
labels   label maps: a data set's classes in the words of a model, and what it cannot be asked about
truth    where the targets are: boxes, masks, points, and in which parts classes differ
report   `check`: what is missing, and what cannot be read
"""

from __future__ import annotations

from pathlib import Path

from finercam_clip.datasets.cub import CUB, CUB_FILES, open_cub
from finercam_clip.datasets.folders import open_folder
from finercam_clip.datasets.items import DataSet, Item
from finercam_clip.datasets.labels import Labels, labelled
from finercam_clip.datasets.lists import SEPARATOR, open_list, open_table
from finercam_clip.datasets.report import DOWNLOADS, Report, check, download_hint
from finercam_clip.datasets.streamed import is_hugging_face, is_tars, open_address, open_hugging_face, open_tars
from finercam_clip.datasets.truth import Truth, check_truth
from finercam_clip.datasets.truth_files import class_values, find_truth
from finercam_clip.errors import InputError
from finercam_clip.paths import check_file, is_file, is_folder, look, place


def open_dataset(source: str | Path) -> DataSet:
    """Opens the data set in a folder or a file.

    * CUB-200-2011 in its original layout: images.txt, classes.txt, image_class_labels.txt, parts/, attributes/.
    * A folder of images by class, `<class>/<id>.jpg`, optionally split into `train`, `test`, `valid` or `val` (Stanford
      Cars).
    * A folder of images without classes.
    * A CSV file with the columns image, target and, optionally, contrasts (several are separated by "|").
    * A list file with one image per line. The name of an image's folder is its class.
    * A tar of WebDataset, or a folder of them; a data set of Hugging Face on disk (`save_to_disk`).
    * An address of an object store, s3://bucket/photos, by class where images lie in folders.

    Args:
        source: The folder, the file, or the address.

    Raises:
        InputError: There is no such data set, or a line of its files cannot be used. Where it holds nothing, the
            message has the commands that download the known ones.
    """
    if isinstance(source, str) and "://" in source:
        return open_address(source)
    path = place(source, "the data set")
    if look(path) is None:
        raise InputError(f"{path}: no such folder or file. {download_hint()}")
    if is_tars(path):
        dataset = open_tars(path)
    elif is_hugging_face(path):
        dataset = open_hugging_face(path)
    elif is_folder(path):
        inner = path / "CUB_200_2011"
        root = inner if is_file(inner / "images.txt") else path
        dataset = open_cub(root) if all(is_file(root / name) for name in CUB_FILES) else open_folder(path)
    else:
        check_file(path)
        dataset = open_table(path) if path.suffix.lower() == ".csv" else open_list(path)
    if not dataset.items:
        why = "".join(f"; {reason}" for reason in list(dataset.left_out.values())[:1])
        raise InputError(f"{path} holds no images{why}. {download_hint()}")
    return dataset


__all__ = [
    "CUB",
    "DOWNLOADS",
    "SEPARATOR",
    "DataSet",
    "Item",
    "Labels",
    "Report",
    "Truth",
    "check",
    "check_truth",
    "class_values",
    "find_truth",
    "labelled",
    "open_dataset",
]
