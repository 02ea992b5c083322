"""Runs of earlier versions, with a file per image: read as they are, and converted."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from reference.folders import tree
from reference.legacy import with_a_file_per_image

from finercam_clip import InputError
from finercam_clip.cli import main
from finercam_clip.datasets import open_dataset
from finercam_clip.explainer import Explainer
from finercam_clip.runs import convert as module
from finercam_clip.runs import each_record, generate, read_manifest, read_maps
from finercam_clip.runs.convert import convert
from finercam_clip.runs.gallery import visualize


@pytest.fixture(scope="module")
def run(birds: Path, bundled: Explainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("new") / "run"
    generate(bundled, open_dataset(birds), folder)
    return folder


@pytest.fixture
def old(run: Path, tmp_path: Path) -> Path:
    return with_a_file_per_image(run, tmp_path / "old")


def _same(one: Path, other: Path) -> None:
    """The same images in the same order, with the same answers and maps."""
    pairs = list(zip(each_record(one), each_record(other), strict=True))
    assert len(pairs) == 12
    for (record, maps), (record2, maps2) in pairs:
        for name in ("image", "path", "target", "contrasts", "similarities", "probabilities", "predicted", "geometry"):
            assert record[name] == record2[name]
        assert list(maps) == list(maps2)
        for mode, grid in maps.items():
            np.testing.assert_allclose(maps2[mode], grid, atol=1e-6 * np.abs(grid).max())


def test_an_old_run_is_read_as_it_is(run: Path, old: Path) -> None:
    _same(run, old)
    for record in read_manifest(old):
        assert read_maps(old, record).keys() == record["scales"].keys()
    assert visualize(old).panels == visualize(run, old.parent / "pictures").panels == 12


def test_a_converted_run_says_the_same_in_fewer_files(run: Path, old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(old)]) == 0
    assert "12 images in 1 parts" in capsys.readouterr().out
    assert set(tree(old)) == {"run.json", "maps/part-000000.parquet"}
    assert not [path for path in (old / "maps").rglob("*") if path.is_dir()]
    _same(run, old)
    before = tree(old)
    assert main(["convert", str(old)]) == 0
    assert tree(old) == before


def test_stopped_in_the_middle_it_is_still_whole_and_goes_on(
    run: Path, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARD", 5)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    for name in ("part_bytes", "_remove_old"):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, stop)
            with pytest.raises(KeyboardInterrupt):
                convert(old)
        _same(run, old)
    assert convert(old).parts == 3
    _same(run, old)
    assert len(tree(old)) == 4


def test_generate_goes_on_with_no_old_run_and_says_what_to_do(old: Path, birds: Path, bundled: Explainer) -> None:
    before = tree(old)
    with pytest.raises(InputError, match="finercam-clip convert"):
        generate(bundled, open_dataset(birds), old)
    assert tree(old) == before
    convert(old)
    with pytest.raises(InputError, match="was converted"):
        generate(bundled, open_dataset(birds), old)


def test_what_is_no_old_run_or_a_damaged_one_stays_as_it_is(run: Path, old: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to convert"):
        convert(run)
    with pytest.raises(InputError, match="holds no run"):
        convert(tmp_path)
    path = next(old.rglob("*.npz"))
    path.write_bytes(path.read_bytes()[:50])
    files = {name for name in tree(old) if name.endswith((".npz", ".json", ".jsonl"))}
    with pytest.raises(InputError, match="damaged"):
        convert(old)
    assert files <= set(tree(old))
    shutil.rmtree(old / "maps")
    with pytest.raises(InputError, match="no such file"):
        convert(old)
