"""`evaluate` of a data set: figures against a calculation by hand, stopped runs, mistakes, and what the table says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.integrate import trapezoid

import finercam_clip
from finercam_clip import InputError
from finercam_clip.cli import main
from finercam_clip.datasets import DataSet, Truth, open_dataset
from finercam_clip.datasets.truth import Region
from finercam_clip.evaluation import controls, faithfulness, metrics
from finercam_clip.evaluation.judging import clearest_pairs
from finercam_clip.evaluation.protocol import GROUPS, TENTHS, Protocol, Setting
from finercam_clip.evaluation.referee import evaluate
from finercam_clip.evaluation.stopwatch import Stopwatch
from finercam_clip.evaluation.summary import Result, result_of
from finercam_clip.explainer import Explainer

SHARED = Path(__file__).parents[2] / "shared" / "data"
CUB, INAT = SHARED / "cub-crops", SHARED / "inat-birds"
EVERY = Protocol(groups=tuple(GROUPS))


@pytest.fixture(scope="module")
def drawn(birds: Path) -> DataSet:
    """Drawn birds in four classes, each with a point, and the left half as the region."""
    return open_dataset(birds).split("train")


@pytest.fixture(scope="module")
def known(drawn: DataSet) -> Truth:
    items = [item for item in drawn.items if item.name.endswith(".png")]
    return Truth(
        ("left halves", "points"),
        regions={item.name: Region(boxes=((0, 0, 56, 112),)) for item in items},
        points={
            item.name: {"beak": ((30.0, 40.0),), "tail": ((90.0, 80.0),), "wing": ((60.0, 20.0),)} for item in items
        },
        classes={
            name: {
                "beak": (np.eye(4)[i],),
                "tail": (np.array([0.5, 0.5]) + 0.1 * i * np.array([1, -1]),),
                "wing": (np.array([1.0]),),
            }
            for i, name in enumerate(drawn.classes)
        },
    )


def values(result: Result, mode: str, objective: str = "") -> dict[str, float]:
    return {r.figure: r.value[0] for r in result.rows if r.mode == mode and objective in ("", r.objective)}


def test_every_figure_of_one_image_is_that_of_a_calculation_by_hand(
    tiny: Explainer, drawn: DataSet, known: Truth
) -> None:
    item = drawn.items[0]
    alone = replace(drawn, items=(item,))
    result = evaluate(tiny, alone, truth=known, protocol=EVERY, gammas=[0.8])

    image = np.asarray(Image.open(item.path).convert("RGB"))
    loaded = tiny.loaded
    texts = [loaded.space.spoken(name) for name in drawn.classes]
    target = drawn.classes.index(str(item.target))
    directions = tiny.embed(texts)
    alike = [int(i) for i in (directions @ directions[target]).argsort(descending=True)]
    alike.remove(target)
    contrasts = {"baseline": [], "finer-default": alike[:3], "finer-compare": alike[:1]}
    pixels, _ = loaded.preprocess(Image.fromarray(image))
    cfg: Any = loaded.preprocess.cfg
    mean, std = (torch.tensor(numbers).reshape(3, 1, 1) for numbers in (cfg.mean, cfg.std))
    picture = (pixels * std + mean).permute(1, 2, 0).numpy().astype(np.float64)

    def scores(changed: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        x = (torch.from_numpy(changed).permute(2, 0, 1).float() - mean) / std
        with torch.no_grad():
            feature = torch.nn.functional.normalize(loaded.tower.visual(x[None]), dim=-1)[0]
        return (loaded.space.scale * directions @ feature).numpy()

    for mode, others in contrasts.items():
        own = values(result, mode)
        objective = "finer" if others else "similarity"
        answer = tiny.explain(image, texts[target], [texts[i] for i in others], gamma=0.8, objective=objective)
        whole = replace(answer.geometry, image=answer.geometry.size, resized=answer.geometry.size, offset=(0, 0))
        seen = whole.to_image(np.maximum(answer.grid, 0))
        for fill in faithfulness.FILLS:
            for share in (0.05, 0.1):
                before, after = scores(picture), scores(faithfulness.without(picture, seen, share, fill))
                chosen = [target, alike[0]]
                for support, p, q in (
                    ("all", faithfulness.softmax(before)[chosen], faithfulness.softmax(after)[chosen]),
                    ("pair", faithfulness.softmax(before[chosen]), faithfulness.softmax(after[chosen])),
                ):
                    expected = (p[0] - q[0]) - (p[1] - q[1])
                    assert own[f"RD@{100 * share:g} {fill}, {support}"] == pytest.approx(expected, abs=1e-5)
        gone = [faithfulness.softmax(scores(faithfulness.without(picture, seen, s, "mean"))) for s in TENTHS]
        blurred = faithfulness.blurred(picture.astype(np.float32))
        kept = []
        for share in TENTHS:
            hottest = faithfulness.hottest(seen, share)[..., None]
            kept.append(faithfulness.softmax(scores(np.where(hottest, picture, blurred))))
        assert own["deletion"] == pytest.approx(trapezoid([p[target] for p in gone], TENTHS), abs=1e-5)
        assert own["insertion"] == pytest.approx(trapezoid([p[target] for p in kept], TENTHS), abs=1e-5)
        curve = [p[target] - p[alike[0]] for p in gone]
        assert own["contrastive"] == pytest.approx(trapezoid(curve, TENTHS), abs=1e-5)
        assert [own[f"contrastive at {s:g}"] for s in TENTHS] == pytest.approx(curve, abs=1e-5)
        left = np.zeros((112, 112), bool)
        left[:, :56] = True
        assert own["energy in region"] == pytest.approx(metrics.energy(answer.heatmap, left), abs=1e-6)
        assert own["pointing"] == metrics.pointing(left, answer.peak)
        discs = metrics.discs([(30, 40), (90, 80), (60, 20)], 11.2, (112, 112))
        assert own["energy in discs"] == pytest.approx(metrics.energy(answer.heatmap, discs), abs=1e-6)


def test_differences_are_taken_image_by_image(tiny: Explainer, drawn: DataSet, known: Truth) -> None:
    result = evaluate(tiny, drawn, truth=known, objectives=["finer", "finer-rectified"])
    assert result.images == 4
    for objective in ("finer", "finer-rectified"):
        for mode in ("finer-default", "finer-compare"):
            plain, own = values(result, "baseline"), values(result, mode, objective)
            gain = values(result, f"{mode} - baseline", objective)
            assert gain["RD@5 mean, all"] == pytest.approx(own["RD@5 mean, all"] - plain["RD@5 mean, all"])
    assert len([line for line in result.rankings if "under all fills" in line or "flips" in line]) == 4


def test_the_part_that_differs_is_measured_against_the_class_that_differs_most_clearly(
    tiny: Explainer, drawn: DataSet, known: Truth
) -> None:
    pairs = clearest_pairs(known, list(drawn.classes))
    assert {pair.part for pair in pairs.values()} == {"beak"}
    assert pairs[drawn.classes[0]].other == drawn.classes[1]  # further classes differ in the tail, too
    result = evaluate(tiny, drawn, truth=known, protocol=Protocol(groups=("difference",)))
    assert set(values(result, "finer-compare")) == {
        "differing part: rank",
        "differing part: nearest to the peak",
        "differing part: rank correlation",
    }
    assert not values(result, "finer-default")  # against one class only
    assert not clearest_pairs(Truth(), list(drawn.classes))


def test_a_stopped_run_goes_on_and_ends_with_the_same_tables(
    tiny: Explainer, drawn: DataSet, known: Truth, tmp_path: Path
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for folder in (whole, stopped):
        evaluate(tiny, drawn, truth=known, protocol=EVERY, output=folder)
    lines = (stopped / "records.jsonl").read_bytes().splitlines(keepends=True)
    (stopped / "records.jsonl").write_bytes(lines[0] + lines[1][:100])  # killed while it wrote the second
    for name in ("table.md", "results.json"):
        (stopped / name).unlink()
    watch = Stopwatch()
    evaluate(tiny, drawn, truth=known, protocol=EVERY, output=stopped, watch=watch)
    assert watch.passes > 0
    for name in ("table.md", "results.json", "records.jsonl", "evaluation.json"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes(), name
    watch = Stopwatch()
    evaluate(tiny, drawn, truth=known, protocol=EVERY, output=stopped, watch=watch)
    assert watch.line() == "cost: nothing was computed"
    with pytest.raises(InputError, match="another evaluation"):
        evaluate(tiny, drawn, truth=known, protocol=EVERY, output=stopped, gammas=[0.5])
    (stopped / "evaluation.json").unlink()
    with pytest.raises(InputError, match="is there without"):
        evaluate(tiny, drawn, truth=known, protocol=EVERY, output=stopped)


def test_controls_are_measured_and_the_models_weights_stay(tiny: Explainer, drawn: DataSet, known: Truth) -> None:
    before = [parameter.clone() for parameter in tiny.loaded.tower.visual.parameters()]
    result = evaluate(tiny, drawn, truth=known, protocol=EVERY)
    for mode in ("centre", "saliency", "random contrast", "random weights"):
        own = values(result, mode)
        assert {"RD@5 mean, all", "energy in region", "pointing"} <= set(own), mode
    assert all(
        torch.equal(one, other) for one, other in zip(before, tiny.loaded.tower.visual.parameters(), strict=True)
    )
    table = result.table()
    assert "| centre | saliency | random contrast | random weights |" in table
    assert "softmax: 'all' over 4 classes" in table


def test_the_centre_is_hottest_in_the_middle_and_saliency_where_the_colour_is_rare() -> None:
    prior = controls.centre((5, 7))
    assert np.unravel_index(prior.argmax(), prior.shape) == (2, 3)
    assert (prior == prior[::-1, ::-1]).all()
    picture = np.zeros((60, 80, 3), np.float32)
    picture[40:50, 10:20] = (1, 0, 0)
    heat = controls.saliency(picture, (6, 8))
    assert np.unravel_index(heat.argmax(), heat.shape) == (4, 1)


def test_the_same_map_for_every_class_shows_as_overlap(tiny: Explainer, drawn: DataSet) -> None:
    result = evaluate(tiny, drawn, methods=["rollout"], protocol=Protocol(groups=("overlap",)), truth=Truth())
    assert values(result, "baseline") == {"overlap of two classes": 1.0}  # rollout knows no class


def test_a_table_says_whether_the_ranking_depends_on_the_fill() -> None:
    plain, other = Setting("m", "baseline"), Setting("m", "finer-default", "finer", 0.6)
    for gains, verdict in (((0.1, 0.2, 0.1), "the same under all fills"), ((0.1, -0.2, 0.1), "flips between fills")):
        drops = {f"RD@5 {fill}, all": gain for fill, gain in zip(faithfulness.FILLS, gains, strict=True)}
        record = {"image": "a", "chances": {}, "figures": {plain.key: dict.fromkeys(drops, 0.0), other.key: drops}}
        (line,) = result_of([record], [plain, other], [], [], {}).rankings
        assert verdict in line


def test_a_limit_draws_images_by_its_seed_and_keeps_their_order(
    tiny: Explainer, drawn: DataSet, tmp_path: Path
) -> None:
    def images(seed: int, limit: int = 2) -> list[str]:
        folder = tmp_path / f"{seed}-{limit}"
        protocol = Protocol(groups=("overlap",), limit=limit, seed=seed)
        evaluate(tiny, drawn, protocol=protocol, truth=Truth(), output=folder)
        return [json.loads(line)["image"] for line in (folder / "records.jsonl").read_text().splitlines()]

    every = images(0, 9)
    assert every == [item.name for item in drawn.items]
    drawings = {tuple(images(seed)) for seed in range(5)}
    assert len(drawings) > 1
    assert all(len(names) == 2 and list(names) == sorted(names, key=every.index) for names in drawings)


def test_unreadable_images_are_left_out_and_told(
    tiny: Explainer, birds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = evaluate(tiny, open_dataset(birds), protocol=Protocol(groups=("overlap",)), truth=Truth())
    assert result.images == 12
    assert len(result.unreadable) == 2


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--limit", "0"], "limit is a number from 1 up"),
        (["--figures", "beauty"], "there is no group of figures 'beauty'"),
        (["--about", "hope"], "there is no target 'hope'"),
        (["--radius", "0"], "radius of discs"),
        (["--split", "dev"], "has no split 'dev'"),
        (["--method", "magic"], "there is no method 'magic'"),
        (["--objective", "fine"], "there is no objective 'fine'"),
        (["--gamma", "-1"], "gamma is a number from 0"),
        (["--truth", "nowhere.json"], "no such file or folder of truth"),
        (["--questions", "5"], "--questions is for the aviary"),
        (["--seed", "-1"], "seed is a number from 0 up"),
    ],
)
@pytest.mark.usefixtures("bundled_once")
def test_mistakes_are_one_line_before_anything_is_computed(
    birds: Path, arguments: list[str], line: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["evaluate", str(birds), "--output", str(tmp_path / "run"), *arguments]) == 2
    shown = capsys.readouterr().err
    assert line in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("bundled_once")
def test_the_command_prints_tables_and_json(birds: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    own = ["evaluate", str(birds), "--split", "train", "--figures", "overlap", "--output", str(tmp_path)]
    assert main(own) == 0
    table = capsys.readouterr()
    assert "overlap of two classes" in table.out
    assert table.err.startswith("cost: ")
    assert main([*own, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content == json.loads((tmp_path / "results.json").read_text())
    assert content["images"] == 4
    assert main(["evaluate", "aviary", "--limit", "3"]) == 2
    assert "--limit is for data sets" in capsys.readouterr().err


def test_a_classifier_that_does_not_know_the_classes_says_what_to_do(photos: Explainer, drawn: DataSet) -> None:
    with pytest.raises(InputError, match="there is no class"):
        evaluate(photos, drawn, truth=Truth())
    with pytest.raises(InputError, match="no class 'an owl'"):
        evaluate(photos, drawn, truth=Truth(), labels={"an owl": "junco, snowbird"})
    overlap = Protocol(groups=("overlap",))
    named = evaluate(photos, drawn, truth=Truth(), protocol=overlap, labels={drawn.classes[0]: "junco, snowbird"})
    assert named.images == 1
    assert [line for line in named.protocol if "left out" in line and all(name in line for name in drawn.classes[1:])]
    asked = Protocol(groups=("overlap",), about="prediction", limit=1)
    assert evaluate(photos, drawn, truth=Truth(), protocol=asked).images == 1


@pytest.mark.usefixtures("bundled_once")
def test_labels_rename_what_they_mention_and_another_map_is_another_evaluation(
    birds: Path, drawn: DataSet, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path, output = tmp_path / "labels.csv", tmp_path / "run"
    path.write_text(f"dataset,classifier\n{drawn.classes[0]},a bird with a hooked beak\n")
    words = ["evaluate", str(birds), "--split", "train", "--figures", "overlap", "--output", str(output)]
    assert main([*words, "--labels", str(path)]) == 0
    targets = {json.loads(line)["target"] for line in (output / "records.jsonl").read_text().splitlines()}
    assert targets == {"a bird with a hooked beak", *(name.replace("_", " ") for name in drawn.classes[1:])}
    capsys.readouterr()
    assert main(words) == 2
    assert "asked differ" in capsys.readouterr().err
    path.write_text(f"{drawn.classes[0]},a bird with a hooked beak\n{drawn.classes[0]},a bird with a red tail\n")
    assert main([*words, "--labels", str(path)]) == 2
    assert "is there twice" in capsys.readouterr().err


def test_a_data_set_of_one_class_has_no_contrast(tiny: Explainer, drawn: DataSet) -> None:
    with pytest.raises(InputError, match="1 class"):
        evaluate(tiny, replace(drawn, classes=drawn.classes[:1]), truth=Truth())


@pytest.mark.skipif(not (CUB.is_dir() and INAT.is_dir()), reason="no photographs of CUB-200-2011 here")
def test_photographs_of_real_birds() -> None:
    import timm
    from safetensors.torch import load_file

    model = timm.create_model("mobilenetv2_100", num_classes=965, pad_type="same")
    weights = load_file(next(INAT.glob("*.safetensors")))
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, strict=False)
    model.eval()
    model.pretrained_cfg.update(mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0, crop_mode="squash")
    explainer = finercam_clip.wrap(model, classes=(INAT / "classes.txt").read_text().splitlines(), name="inat-birds")
    lines = (CUB / "inat_names.csv").read_text(encoding="utf-8").splitlines()[1:]
    labels = {line.split(",", 1)[0]: line.split(",", 1)[1].strip('"') for line in lines}
    protocol = Protocol(limit=4, groups=("place", "difference"))
    result = evaluate(explainer, open_dataset(CUB), labels=labels, protocol=protocol)
    assert result.images == 4
    own = values(result, "baseline")
    assert own["energy in region"] == pytest.approx(1)  # the crop is the box
    assert 0 < own["energy in discs"] <= 1
    assert "truth: attributes of 80 classes, by 12 parts" in result.protocol
