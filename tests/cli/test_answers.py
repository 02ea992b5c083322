"""What the commands print and write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
from PIL import Image

import finercam_clip
from finercam_clip import InputError
from finercam_clip.concepts.vocabulary import read_prompts
from finercam_clip.explainer import Explainer

from .command import CONTRAST, QUESTION, TARGET, Run, contents

# ------------------------------------------------------------------------------------------------------------- explain


def test_explain_writes_a_picture_and_a_summary(run: Run, folder: Path, drawn_bird: Path) -> None:
    before = contents(folder)
    code, out, err = run("explain", drawn_bird, *QUESTION, "--output", "crown.png")
    assert (code, err) == (0, "")
    assert set(contents(folder)) - set(before) == {folder / "crown.png"}
    with Image.open(folder / "crown.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 4 * 200
    lines = out.splitlines()
    assert lines[0].startswith("target")
    assert lines[0].endswith(TARGET)
    assert lines[1].startswith("contrast")
    assert lines[1].endswith(CONTRAST)
    assert any(line.startswith("peak") for line in lines)
    assert lines[-1].split() == ["picture", "crown.png"]


@pytest.mark.usefixtures("bundled_once")
def test_explain_says_how_much_of_a_map_is_chance(run: Run, drawn_bird: Path, folder: Path) -> None:
    code, out, _ = run("explain", drawn_bird, *QUESTION, "--null", "aviary")
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines()}
    code, stored, _ = run("explain", drawn_bird, *QUESTION, "--null", "aviary", "--json")
    null = json.loads(stored)["null"]
    assert f"p-value {null['p_value']:.3f} beside {null['texts']} others" in lines["chance"]
    assert lines["stand"].count("(") == len(null["boxes"])
    own = folder / "mine.txt"
    own.write_text("\n".join(read_prompts("aviary")))
    assert (
        json.loads(run("explain", drawn_bird, *QUESTION, "--null", own, "--json")[1])["null"]["texts"] == null["texts"]
    )


@pytest.mark.usefixtures("bundled_once")
def test_the_picture_is_named_after_the_image_and_lies_in_the_working_folder(
    run: Run, folder: Path, drawn_bird: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder / "pictures")
    code, out, _ = run("explain", drawn_bird, *QUESTION)
    assert code == 0
    assert [path.name for path in Path.cwd().iterdir()] == ["drawn-finercam.png"]
    assert "drawn-finercam.png" in out


@pytest.mark.usefixtures("bundled_once")
def test_a_summary_lists_ten_texts_and_says_how_many_more_there_are(run: Run, folder: Path, drawn_bird: Path) -> None:
    nearest = ["--target", TARGET, "--nearest", "12", "--vocabulary", "aviary"]
    code, out, _ = run("explain", drawn_bird, *nearest)
    assert code == 0
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[:11]] == ["target", *["contrast"] * 9, "and"]
    assert lines[10].strip() == "and 3 contrasts more (--json lists all)"


def test_json_says_everything_and_writes_nothing(run: Run, folder: Path, drawn_bird: Path, bundled: Explainer) -> None:
    before = contents(folder)
    code, out, err = run("explain", drawn_bird, *QUESTION, "--json", "--gamma", "0.8", "--method", "hirescam")
    assert (code, err) == (0, "")
    assert contents(folder) == before
    answer = json.loads(out)
    assert answer["target"] == TARGET
    assert answer["contrasts"] == [CONTRAST]
    assert list(answer["similarities"]) == list(answer["probabilities"]) == [TARGET, CONTRAST]
    assert all(-1 <= cosine <= 1 for cosine in answer["similarities"].values())
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert np.array(answer["grid"]).shape == bundled.encode(drawn_bird).grid
    assert answer["image_size"] == {"width": 240, "height": 160}
    assert answer["seen"] == [40, 0, 200, 160]
    assert answer["options"]["gamma"] == 0.8
    assert answer["options"]["method"] == "hirescam"
    assert (answer["model"], answer["pretrained"]) == ("aviary", "bundled")
    if answer["peak"] is not None:
        assert 40 <= answer["peak"][0] < 200
    for x0, y0, x1, y1, score in answer["boxes"]:
        assert 0 <= x0 < x1 <= 240
        assert 0 <= y0 < y1 <= 160
        assert 0.5 <= score <= 1


@pytest.mark.usefixtures("bundled_once")
def test_json_is_what_the_python_api_says(run: Run, drawn_bird: Path, bundled: Explainer) -> None:
    _, out, _ = run("explain", drawn_bird, *QUESTION, "--json")
    explanation = bundled.explain(drawn_bird, [TARGET], [CONTRAST])
    answer = json.loads(out)
    np.testing.assert_allclose(answer.pop("grid"), explanation.grid, atol=1e-4)
    expected = json.loads(explanation.to_json())
    expected.pop("grid")
    assert answer == expected


@pytest.mark.usefixtures("bundled_once")
def test_json_and_output_together_give_both(run: Run, folder: Path, drawn_bird: Path) -> None:
    code, out, _ = run("explain", drawn_bird, *QUESTION, "--json", "--output", "crown.webp")
    assert code == 0
    assert json.loads(out)["target"] == TARGET
    assert (folder / "crown.webp").stat().st_size > 0


@pytest.mark.usefixtures("bundled_once")
def test_several_targets_are_an_ensemble_and_several_contrasts_are_several(run: Run, drawn_bird: Path) -> None:
    more = ["--target", "a red crown", "--contrast", "a green crown"]
    answer = json.loads(run("explain", drawn_bird, *QUESTION, *more, "--json")[1])
    assert answer["target"] == f"{TARGET} / a red crown"
    assert answer["contrasts"] == [CONTRAST, "a green crown"]
    assert len(answer["probabilities"]) == 3


@pytest.mark.usefixtures("bundled_once")
def test_without_contrasts_gamma_does_not_matter(run: Run, drawn_bird: Path) -> None:
    grids = [
        json.loads(run("explain", drawn_bird, "--target", TARGET, "--gamma", gamma, "--json")[1])["grid"]
        for gamma in ("0", "0.9")
    ]
    assert grids[0] == grids[1]


@pytest.mark.usefixtures("bundled_once")
def test_nearest_takes_contrasts_from_the_vocabulary(run: Run, drawn_bird: Path) -> None:
    nearest = ["--nearest", "2", "--vocabulary", "aviary"]
    answer = json.loads(run("explain", drawn_bird, "--target", TARGET, *nearest, "--json")[1])
    assert len(set(answer["contrasts"])) == 2
    assert set(answer["contrasts"]) <= set(read_prompts("aviary")) - {TARGET}


@pytest.mark.usefixtures("bundled_once")
def test_a_preset_is_its_contrasts_gamma_and_objective(run: Run, drawn_bird: Path) -> None:
    question = ["explain", drawn_bird, "--target", TARGET, "--vocabulary", "aviary", "--json"]
    answer = json.loads(run(*question, "--preset", "finer-default")[1])
    assert answer == json.loads(run(*question, "--nearest", "3", "--gamma", "0.6", "--objective", "finer")[1])
    assert len(answer["contrasts"]) == 3


@pytest.mark.usefixtures("bundled_once")
def test_templates_change_how_a_concept_is_written_and_not_its_name(run: Run, folder: Path, drawn_bird: Path) -> None:
    (folder / "mine.txt").write_text("a photo of {}\n{}.\n")
    plain, written = (
        json.loads(run("explain", drawn_bird, *QUESTION, "--json", *extra)[1])
        for extra in ([], ["--templates", "mine.txt"])
    )
    assert written["similarities"].keys() == plain["similarities"].keys()
    assert written["similarities"] != plain["similarities"]
    assert written["options"]["templates"] == "mine.txt"


@pytest.mark.usefixtures("bundled_once")
def test_method_layers_refinement_and_scenery(run: Run, drawn_bird: Path) -> None:
    def ask(*options: str) -> dict[str, Any]:
        code, out, err = run("explain", drawn_bird, *QUESTION, "--json", *options)
        assert (code, err) == (0, "")
        return dict(json.loads(out))

    plain = ask()
    assert plain["options"]["method"] == "hirescam"
    assert ask("--layer", "-1")["grid"] == pytest.approx(np.array(plain["grid"]), abs=1e-4)
    layers = ask("--layer", "-2", "--layer", "transformer.resblocks.4.ln_1")
    assert layers["options"]["layer"] == [-2, "transformer.resblocks.4.ln_1"]
    assert np.array(ask("--refine", "affinity")["grid"]).min() >= 0
    clip_es = ask("--method", "clip-es")
    parts = {"method": "gradcam", "objective": "probability", "pooling": "mean", "refine": "affinity"}
    assert clip_es["options"] | parts == clip_es["options"]
    assert ask("--background", "aviary")["contrasts"][0] == plain["contrasts"][0]


def test_the_bundled_model_knows_every_concept_of_the_aviary_vocabulary(bundled: Explainer) -> None:
    entries = read_prompts("aviary")
    assert len(bundled.embed(entries)) == len(entries)
    with pytest.raises(InputError, match="does not know 'helicopter'"):  # one that it does not know would raise
        bundled.embed([*entries, "a helicopter"])


def test_random_weights_explain_with_a_warning_and_say_that_the_map_means_nothing(run: Run, folder: Path) -> None:
    before = contents(folder)
    random_model = ["--model", "ViT-B-32", "--pretrained", "random"]
    code, out, err = run("explain", "bird.jpg", *QUESTION, *random_model, "--json")
    assert code == 0
    assert len(err.splitlines()) == 1
    assert "RANDOM" in err
    assert contents(folder) == before
    answer = json.loads(out)
    assert (answer["model"], answer["pretrained"]) == ("ViT-B-32", "random")
    assert "random weights" in answer["caution"]
    assert np.array(answer["grid"]).shape == (7, 7)
    assert np.isfinite(answer["grid"]).all()
    assert answer["image_size"] == {"width": 140, "height": 90}
    assert answer["seen"] == pytest.approx([25, 0, 115, 90], abs=1)
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert answer["options"] == {
        "method": "hirescam",
        "gamma": 1.0,
        "objective": "finer-strongest",
        "pooling": "model",
        "image_size": None,
        "layer": None,
        "refine": None,
        "background": None,
        "templates": None,
        "vocabulary": None,
        "similar_by": None,
        "null": None,
    }


@pytest.mark.slow
def test_sixty_megapixels_go_all_the_way(run: Run, folder: Path) -> None:
    ramp = np.linspace(0, 255, 10000, dtype=np.uint8)[None, :, None]
    Image.fromarray(np.ascontiguousarray(np.broadcast_to(ramp, (6000, 10000, 3)))).save(folder / "large.jpg")
    code, out, err = run("explain", "large.jpg", *QUESTION, "--output", "crown.png")
    assert (code, err) == (0, "")
    assert "crown.png" in out
    with Image.open(folder / "crown.png") as picture:
        assert max(picture.size) < 3000


# ------------------------------------------------------------------------------------------------- demo, version, help


def test_the_demo_writes_its_picture_and_finds_the_part(run: Run, folder: Path) -> None:
    before = contents(folder)
    code, out, err = run("demo")
    assert (code, err) == (0, "")
    assert set(contents(folder)) - set(before) == {folder / "finercam-demo.png"}
    assert "on the bird's crown" in out
    assert "finercam-demo.png" in out
    with Image.open(folder / "finercam-demo.png") as picture:
        assert picture.width > 4 * 200


def test_the_version_is_the_packages(run: Run) -> None:
    assert run("--version") == (0, f"finercam-clip {finercam_clip.__version__}\n", "")


# -------------------------------------------------------------------------------------------------------------- tables


def test_the_methods_are_listed_with_their_sources(run: Run) -> None:
    code, out, err = run("methods")
    assert (code, err) == (0, "")
    assert "| `legrad` | Bousselham et al., ICCV 2025 | transformers |" in out


def test_models_lists_families_tags_and_the_bundled_model(run: Run) -> None:
    code, out, err = run("models")
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line.split(maxsplit=2) for line in out.splitlines() if line}
    assert rows["aviary"][1:] == ["vit", "bundled"]
    assert rows["ViT-B-16"][1] == "vit"
    assert "openai" in rows["ViT-B-16"][2]
    assert rows["RN50"][1] == "resnet"
    assert "not yet" not in out
    assert set(open_clip.list_models()) <= set(rows)


def test_models_as_json_say_the_same_for_scripts(run: Run) -> None:
    rows = {row["name"]: row for row in json.loads(run("models", "--json")[1])}
    assert rows["aviary"] == {"name": "aviary", "family": "vit", "weights": ["bundled"]}
    assert rows["ViT-B-16"]["family"] == rows["ViT-B-16-quickgelu"]["family"] == "vit"
    assert rows["ViT-B-16"]["weights"] == open_clip.list_pretrained_tags_by_model("ViT-B-16")
    assert rows["ViT-B-16-SigLIP2"]["family"] == "timm-vit"
    assert set(open_clip.list_models()) == set(rows) - {"aviary", "birds"}


def test_families_are_a_table_that_counts_every_architecture(run: Run) -> None:
    code, out, err = run("models", "--families")
    assert (code, err) == (0, "")
    header, _rule, *rows = (line.strip("| ").split(" | ") for line in out.splitlines())
    assert header[:2] == ["family", "architectures"]
    families = {row["family"] for row in json.loads(run("models", "--json")[1])}
    assert families <= {row[0].strip("`") for row in rows}
    assert sum(int(row[1]) for row in rows) == len(open_clip.list_models())
