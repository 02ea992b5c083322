"""Images in tars, in tables of Hugging Face and in object stores: the same runs as of a folder, nothing extracted."""

from __future__ import annotations

import io
import json
import socket
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image
from reference.folders import CLASSES, tree

from finercam_clip import InputError
from finercam_clip.cli import main
from finercam_clip.datasets import check, open_dataset
from finercam_clip.errors import UnfinishedError
from finercam_clip.explainer import Explainer
from finercam_clip.exports import export
from finercam_clip.runs import Share, each_record, generate, read_manifest, read_unreadable
from finercam_clip.runs.gallery import visualize
from finercam_clip.traits import Trait, trait_table

SETTINGS: dict[str, Any] = {"shard_size": 4, "batch": 2, "threads": 1}


@pytest.fixture(scope="module")
def pictures(birds: Path) -> list[tuple[str, str, bytes]]:
    """Name, class and bytes of each drawn bird, those that are no images included."""
    items = open_dataset(birds).items
    return [(item.path.stem, str(item.target), item.path.read_bytes()) for item in items]


@pytest.fixture(scope="module")
def plain(birds: Path, bundled: Explainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over the folder."""
    run = tmp_path_factory.mktemp("plain") / "run"
    generate(bundled, open_dataset(birds), run, **SETTINGS)
    return run


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


@pytest.fixture(scope="module")
def tars(pictures: list[tuple[str, str, bytes]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WebDataset of two tars. Classes stand beside the images, in three ways."""
    root = tmp_path_factory.mktemp("tars")
    for number in (0, 1):
        with tarfile.open(root / f"part-{number}.tar", "w") as archive:
            for i, (name, target, data) in list(enumerate(pictures))[number * 7 : number * 7 + 7]:
                key = f"sub/{i:03}-{name}"
                if i % 3 == 0:
                    _add(archive, f"{key}.cls", target.encode())
                _add(archive, f"{key}.png", data)
                if i % 3 == 1:
                    _add(archive, f"{key}.json", json.dumps({"label": target, "other": 5}).encode())
                elif i % 3 == 2:
                    _add(archive, f"{key}.txt", f"{target}\n".encode())
    return root


@pytest.fixture(scope="module")
def table(pictures: list[tuple[str, str, bytes]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of Hugging Face on disk."""
    datasets = pytest.importorskip("datasets", reason="pip install 'finercam_clip[datasets]'")
    features = datasets.Features({"photo": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    rows = {
        "photo": [{"bytes": data, "path": None} for _, _, data in pictures],
        "label": [CLASSES.index(target) for _, target, _ in pictures],
    }
    root = tmp_path_factory.mktemp("table") / "birds"
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows, features)}).save_to_disk(str(root))
    return root


@pytest.fixture(scope="module", params=["s3", "gs"])
def bucket(request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty bucket of a server on this machine."""
    with {"s3": _of_amazon, "gs": _of_google}[request.param]():
        fsspec.get_filesystem_class(request.param).clear_instance_cache()
        fsspec.filesystem(request.param).mkdir("birds")
        yield f"{request.param}://birds"
        fsspec.get_filesystem_class(request.param).clear_instance_cache()


@contextmanager
def _of_amazon() -> Iterator[None]:
    server = pytest.importorskip("moto.server", reason="pip install 'moto[server]'")
    pytest.importorskip("s3fs", reason="pip install 'finercam_clip[s3]'")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
        ):
            patch.setenv(name, value)
        yield
    running.stop()


@contextmanager
def _of_google() -> Iterator[None]:
    server = pytest.importorskip("gcp_storage_emulator.server", reason="pip install gcp-storage-emulator")
    pytest.importorskip("gcsfs", reason="pip install 'finercam_clip[gs]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = server.create_server("127.0.0.1", port, in_memory=True)
    running.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # or it asks a service that the emulator has not
        yield
    running.stop()


def _same_answers(run: str | Path, plain: Path) -> None:
    """The same classes, scores and maps, image by image."""
    pairs = list(zip(each_record(run), each_record(plain), strict=True))
    assert len(pairs) == 12
    for (record, maps), (record2, maps2) in pairs:
        for name in ("target", "contrasts", "similarities", "source", "geometry"):
            assert record[name] == record2[name]
        assert all(np.array_equal(grid, maps2[mode]) for mode, grid in maps.items())


@pytest.mark.parametrize("kind", ["tars", "table"])
def test_a_run_over_streamed_images_is_that_over_the_folder(
    kind: str, request: pytest.FixtureRequest, plain: Path, tmp_path: Path, bundled: Explainer
) -> None:
    source = request.getfixturevalue(kind)
    before = tree(source)
    dataset = open_dataset(source)
    assert set(dataset.classes) == set(CLASSES)
    for index in (1, 0):
        generate(bundled, dataset, tmp_path / "run", share=Share(index, 2), **SETTINGS)
    _same_answers(tmp_path / "run", plain)
    assert len(read_unreadable(tmp_path / "run")) == len(check(dataset).unreadable) == 2
    assert visualize(tmp_path / "run").panels == 12
    assert export(tmp_path / "run", "coco").images == 12
    table = trait_table(bundled, dataset, [Trait("crown", "a bird with a red crown")])
    assert (len(table.rows), len(table.unreadable)) == (12, 2)
    assert tree(source) == before


def test_a_folder_of_images_with_a_tar_in_it_is_a_folder_of_images(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "x.png")
    with tarfile.open(tmp_path / "backup.tar", "w") as archive:
        _add(archive, "y.png", (tmp_path / "x.png").read_bytes())
    assert [item.name for item in open_dataset(tmp_path).items] == ["x.png"]
    assert [item.name for item in open_dataset(tmp_path / "backup.tar").items] == ["backup.tar/y.png"]


@pytest.mark.parametrize("harm", ["text", "compressed", "cut"])
def test_a_tar_that_cannot_be_read_is_one_line(harm: str, tars: Path, tmp_path: Path) -> None:
    data = (tars / "part-0.tar").read_bytes()
    path = tmp_path / "x.tar"
    if harm == "text":
        path.write_text("no tar" * 200)
    elif harm == "compressed":
        with tarfile.open(path, "w:gz") as archive:
            _add(archive, "x.png", data[:5000])
    else:
        path.write_bytes(data[:9000])
    try:
        dataset = open_dataset(path)
    except InputError as error:
        assert "x.tar" in str(error)  # noqa: PT017 - either is right
    else:
        assert check(dataset).unreadable


def test_a_tar_cannot_lead_out_of_itself(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in ("../x.png", "/etc/x.png", "a/../../x.png", "fine.png"):
            _add(archive, name, b"x")
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
    assert [item.name for item in open_dataset(tmp_path / "x.tar").items] == ["x.tar/fine.png"]


# ------------------------------------------------------------------------------------------------------- object stores


@pytest.mark.slow
@pytest.mark.usefixtures("bundled_once")
def test_from_a_store_into_a_store(
    bucket: str, birds: Path, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    system = fsspec.filesystem(bucket.partition(":")[0])
    for name, data in tree(birds / "test").items():
        system.pipe_file(f"birds/photos/{name}", data)
    run = f"{bucket}/runs/one"
    command = ["generate", f"{bucket}/photos", "--output", run, "--shard-size", "4", "--batch", "2", "--threads", "1"]
    for share in ("0/2", "1/2"):
        assert main([*command, "--shards", share]) in (0, 1)
    assert main(["generate", str(birds / "test"), "--output", str(tmp_path / "run"), *command[4:]]) == 1
    parts = {path.rsplit("/", 1)[-1]: system.cat_file(path) for path in system.find("birds/runs/one/maps")}
    assert parts == tree(tmp_path / "run" / "maps")
    assert len(read_manifest(run)) == 8
    capsys.readouterr()
    assert main(["export", run, "--to", "csv"]) == 2
    assert "--output" in capsys.readouterr().err
    assert main(["export", run, "--to", "csv", "--output", str(tmp_path / "csv")]) == 0
    assert main(["visualize", run, "--output", str(tmp_path / "pictures")]) == 0
    assert len(list((tmp_path / "pictures" / "panels").rglob("*.jpg"))) == 8


@pytest.mark.slow
def test_a_store_that_goes_is_one_line_and_what_was_done_stays(
    bucket: str, birds: Path, bundled: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, run = fsspec.filesystem(bucket.partition(":")[0]), f"{bucket}/runs/two"
    for name, data in tree(birds / "train").items():
        system.pipe_file(f"birds/train/{name}", data)
    dataset, read, count = open_dataset(f"{bucket}/train"), system.cat_file, []

    def failing(path: str, *rest: Any, **named: Any) -> bytes:
        count.append(path)
        if path.endswith(".png") and len([one for one in count if one.endswith(".png")]) > 2:
            raise ConnectionError("the store is gone")
        return bytes(read(path, *rest, **named))

    with monkeypatch.context() as patch:
        patch.setattr(system, "cat_file", failing)
        with pytest.raises(UnfinishedError, match="run the same command again"):
            generate(bundled, dataset, run, shard_size=2, batch=2, threads=1)
    done = system.find("birds/runs/two/maps")
    assert len(done) == 1
    assert generate(bundled, dataset, run, shard_size=2, batch=2, threads=1).computed == 2


def test_an_address_of_no_store_is_one_line(tmp_path: Path, bundled: Explainer, birds: Path) -> None:
    with pytest.raises(InputError, match="nowhere://x"):
        open_dataset("nowhere://x")
    with pytest.raises(InputError, match="nowhere://x"):
        generate(bundled, open_dataset(birds), "nowhere://x")
    with pytest.raises(InputError, match="nowhere://x"):
        read_manifest("nowhere://x")
