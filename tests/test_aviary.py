"""The bundled model against the bars, and the demo."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
from birds import bird
from PIL import Image
from safetensors.torch import load_file, save_file

import finercam_clip
from finercam_clip import Options
from finercam_clip.aviary import benchmark, demo, drawing, world
from finercam_clip.explainer import Explainer
from finercam_clip.models.catalogue import BUNDLED, BUNDLED_MODELS


def test_bundled_weights_fit_the_wheel() -> None:
    files = list(BUNDLED_MODELS[BUNDLED].glob("*.safetensors"))
    assert len(files) == 1
    state = load_file(files[0])
    touched = (state["token_embedding.weight"] != 0).any(1)
    bytes_left = sum(t.numel() * 2 for name, t in state.items() if name != "token_embedding.weight")
    assert bytes_left + int(touched.sum()) * 256 < 12 * 2**20
    config = json.loads((BUNDLED_MODELS[BUNDLED] / "open_clip_config.json").read_text())
    assert config["model_cfg"]["vision_cfg"]["image_size"] == 160


def test_bundled_model_tells_pairs_apart_and_points_at_the_part_that_differs(bundled: Explainer) -> None:
    """On 24 held-out questions of each kind, 60 of absent ones; the documentation's figures are of 500."""
    objectives = ("similarity", Options.objective)
    rows = []
    for kinds, count in ((("attribute", "species", "unseen", "two birds"), 24), (("absent",), 60)):
        rows += benchmark.evaluate(
            bundled,
            kinds=kinds,
            methods=[Options.method],
            objectives=objectives,
            questions=count,
            seed=40_000,
            causal=False,
        )
    means = {(row.kind, row.objective): {name: f[0] for name, f in row.figures.items()} for row in rows}
    for kind in ("attribute", "species", "unseen"):
        finer = means[kind, Options.objective]
        assert finer["pair accuracy"] >= 0.95, kind
        assert finer["pointing"] >= 0.70, kind
        assert finer["near"] >= 0.85, kind
        assert finer["energy"] >= 12 * finer["chance"], kind
    # Texts that name three parts: what the contrast shares is subtracted, so the map is more about what differs.
    for kind in ("species", "unseen"):
        finer, plain = (means[kind, objective] for objective in (Options.objective, "similarity"))
        assert finer["pointing"] > plain["pointing"] + 0.3
        assert finer["energy"] > 1.5 * plain["energy"]
        assert finer["drop"] > plain["drop"]
    assert means["two birds", Options.objective]["drop"] > means["two birds", "similarity"]["drop"]
    assert means["absent", ""]["auroc"] >= 0.95
    assert means["absent", ""]["flagged"] >= 0.8


def test_swapping_the_colours_of_two_birds_swaps_the_answer(bundled: Explainer) -> None:
    red_crowned = bird(77).with_trait("crown", "red").with_trait("tail", "blue")
    swapped = red_crowned.with_trait("crown", "blue").with_trait("tail", "red")
    red, blue = "a bird with a red crown", "a bird with a blue crown"
    for one, best in ((red_crowned, red), (swapped, blue)):
        similarities = bundled.explain(drawing.draw(one, 5, size=384).image, red, [blue]).similarities
        assert max(similarities, key=similarities.__getitem__) == best


def test_an_absent_target_is_flagged(bundled: Explainer) -> None:
    scene = drawing.draw(bird(78).with_trait("crown", "blue"), 8, size=384)
    image, crown = scene.image, scene.masks[0]["crown"]
    absent = bundled.explain(image, "a bird with a red crown", ["a bird with a blue crown"])
    present = bundled.explain(image, "a bird with a blue crown", ["a bird with a red crown"])
    assert absent.caution is not None
    assert present.caution is None
    assert absent.heatmap[crown].mean() < present.heatmap[crown].mean()


def test_a_trait_that_is_not_there_is_flagged_without_any_contrast(bundled: Explainer) -> None:
    assert bundled.loaded.present_above is not None
    of_absent, of_present = [], []
    for seed in range(20):
        one = bird(seed)
        encoding = bundled.encode(drawing.draw(one, seed, size=256).image)
        colours = world.SLOTS["wing"]
        absent = colours[(colours.index(one["wing"]) + 1) % len(colours)]
        of_absent.append(encoding.explain(f"a bird with a {absent} wing").caution)
        of_present.append(encoding.explain(f"a bird with a {one['wing']} wing").caution)
    assert sum(caution is not None for caution in of_absent) >= 16
    assert sum(caution is not None for caution in of_present) <= 1


def test_a_model_whose_weights_do_not_say_what_true_texts_reach_is_not_second_guessed(
    bundled: Explainer, tmp_path: Path
) -> None:
    """The same weights in a file without that figure: the similarity and the map are the same, the caution is gone."""
    shutil.copy(BUNDLED_MODELS[BUNDLED] / "open_clip_config.json", tmp_path)
    save_file(
        load_file(BUNDLED_MODELS[BUNDLED] / "open_clip_model.safetensors"), tmp_path / "open_clip_model.safetensors"
    )
    silent = finercam_clip.load(f"local-dir:{tmp_path}")
    image = drawing.draw(bird(3).with_trait("wing", "blue"), 3, size=256).image
    warned, plain = (explainer.explain(image, "a bird with a red wing") for explainer in (bundled, silent))
    assert warned.caution is not None
    assert "true texts reach" in warned.caution
    assert plain.similarities == warned.similarities
    assert np.array_equal(plain.grid, warned.grid)
    assert plain.caution is None


def test_the_demo_points_at_the_part_it_names(tmp_path: Path) -> None:
    lines = demo.demo(tmp_path / "demo.png")
    (hottest,) = (line for line in lines if line.startswith("hottest"))
    assert demo.SLOT in hottest
    x, y = map(int, re.findall(r"\d+", hottest))
    assert demo.demo_scene().masks[0][world.part_of(demo.SLOT)][y, x]
    assert Image.open(tmp_path / "demo.png").width > 2 * demo.SIZE


def test_the_bundled_picture_is_the_scene_that_it_claims_to_be() -> None:
    stored = np.asarray(Image.open(demo.IMAGE).convert("RGB")).astype(int)
    assert np.abs(stored - demo.demo_scene().image).mean() < 2
