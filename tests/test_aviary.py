"""The drawn world: exact masks, true texts, seeds apart; its training; the bundled model against the bars."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from finercam_clip import InputError, Options
from finercam_clip.aviary import benchmark, demo, train, world
from finercam_clip.explainer import Explainer
from finercam_clip.models import BUNDLED_FOLDER


def _values(bird: world.Bird) -> torch.Tensor:
    return torch.tensor([world.SLOTS[slot].index(value) for slot, value in bird.traits])


def _bird(seed: int) -> world.Bird:
    return world.sample_bird(np.random.default_rng(seed))


@pytest.mark.parametrize("slot", world.SLOTS)
def test_changing_a_trait_changes_pixels_of_its_part_only(slot: str) -> None:
    bird = _bird(3)
    other = world.change_trait(bird, slot, np.random.default_rng(0))
    assert [a == b for a, b in zip(bird.traits, other.traits, strict=True)].count(False) == 1
    one, two = (world.draw(b, 11, size=192) for b in (bird, other))
    part = world.part_of(slot)
    near = (
        world.cv2.dilate((one.masks[0][part] | two.masks[0][part]).astype(np.uint8), np.ones((11, 11), np.uint8)) > 0
    )  # a twig can leave a sliver of it
    changed = np.abs(one.image.astype(int) - two.image).max(-1) > 12
    assert changed.any()
    assert not (changed & ~near).any()


def test_parts_do_not_overlap_and_are_seldom_hidden() -> None:
    hidden = 0
    for seed in range(40):
        for birds in ((_bird(seed),), (_bird(seed), _bird(seed + 100))):
            scene = world.draw(birds, seed, size=128)
            masks = [mask for parts in scene.masks for mask in parts.values()]
            assert len(masks) == len(birds) * len(world.PARTS)
            assert np.sum(masks, axis=0).max() == 1
            hidden += sum(mask.mean() < 0.0005 for mask in masks)
    assert hidden < 10  # of 1,200: off the edge, or behind the other bird


def test_twigs_hide_what_is_behind_them() -> None:
    for seed in range(60):
        scene = world.draw(_bird(seed), seed, size=192)
        inside = sum(mask.astype(int) for mask in scene.masks[0].values()) > 0
        holes = world.cv2.morphologyEx(inside.astype(np.uint8), world.cv2.MORPH_CLOSE, np.ones((9, 9))) > inside
        if holes.mean() > 0.01:  # the body, the eye and seams are holes of every bird; a twig across it adds a stroke
            return
    raise AssertionError("no twig in 60 pictures")


def test_a_scene_is_a_function_of_its_seed() -> None:
    bird = _bird(1)
    one, two, other = world.draw(bird, 5), world.draw(bird, 5), world.draw(bird, 6)
    assert np.array_equal(one.image, two.image)
    assert not np.array_equal(one.image, other.image)


def test_masks_are_the_same_bird_at_every_size() -> None:
    small, large = (world.draw(_bird(2), 9, size=size).masks[0]["wing"] for size in (96, 192))
    assert abs(small.mean() - large.mean()) < 0.004


def test_a_part_has_the_colour_that_its_text_names() -> None:
    for seed in range(10):
        bird = _bird(seed)
        scene = world.draw(bird, seed, size=192)
        for part in ("crown", "tail", "legs", "back"):
            mean = np.median(scene.image[scene.masks[0][part]].astype(float), axis=0)
            distance = {name: np.linalg.norm(mean - rgb) for name, rgb in world.COLOURS.items()}
            assert sorted(distance, key=distance.__getitem__).index(bird[part]) < 2, (seed, part)


def test_texts_name_every_trait_that_they_claim() -> None:
    rng = np.random.default_rng(0)
    for seed in range(100):
        traits = tuple(_bird(seed).traits[i] for i in rng.permutation(len(world.SLOTS))[: rng.integers(1, 5)])
        text = world.describe(traits, rng)
        assert all(value in text for _, value in traits)


def test_training_and_held_out_seeds_do_not_meet() -> None:
    with pytest.raises(InputError, match="held-out"):
        benchmark.make_question("attribute", world.TRAINING_SEEDS)


def test_training_never_sees_a_held_out_combination_in_picture_or_text() -> None:
    """Every tenth combination of the pairs of slots is one; a bird drawn freely has one more often than not at all."""
    assert sum(world.is_unseen(_bird(seed).traits) for seed in range(400)) > 60
    rng = np.random.default_rng(0)
    birds = [world.sample_training_bird(rng) for _ in range(400)]
    assert not any(world.is_unseen(bird.traits) for bird in birds)
    pictures = train.Pictures(32, range(world.TRAINING_SEEDS, world.TRAINING_SEEDS + 60), [0.5] * 3, [0.25] * 3)
    values = torch.stack([pictures[i][1] for i in range(len(pictures))])
    for row in values[:, 0]:
        traits = tuple((slot, options[i]) for (slot, options), i in zip(world.SLOTS.items(), row.tolist(), strict=True))
        assert not world.is_unseen(traits)
    seen = []
    for seed in range(20):
        texts, _, _ = train.draw_captions(values, np.random.default_rng(seed))
        seen += [text for text in texts if "crown" in text and "breast" in text]
    assert len(seen) > 20
    unseen = [
        (crown, breast)
        for crown in world.COLOURS
        for breast in world.COLOURS
        if world.is_unseen((("crown", crown), ("breast", breast)))
    ]
    assert len(unseen) == 10
    for text in seen:
        for crown, breast in unseen:
            assert not (f"{crown} crown" in text and f"{breast} breast" in text), text


def test_captions_say_what_is_true_of_which_picture() -> None:
    values = torch.stack(
        [torch.stack([_values(_bird(seed)), _values(_bird(seed + seed % 2 * 50))]) for seed in range(8)]
    )
    for seed in range(10):
        texts, true, swaps = train.draw_captions(values, np.random.default_rng(seed))
        assert len(texts) == 16
        assert true.shape == (8, 16)
        assert bool(true.diagonal().all())  # a picture's own caption is true of its first bird
        assert not bool(true[:, 8:].diagonal().any())  # with one trait changed it is true of neither
        for i, (before, after) in enumerate(swaps.T.tolist()):
            (slot, own), (same, other) = world.TRAITS[before], world.TRAITS[after]
            assert slot == same
            assert own == _bird(i)[slot] != other


def test_what_single_patches_say_in_training_is_the_map_of_hirescam(bundled: Explainer) -> None:
    encoding = bundled.encode(world.draw(_bird(3), 3, size=128).image)
    seen = train.look(bundled.loaded.model, encoding.pixels, borrowed=False, local=False)
    directions = torch.randn(5, 256, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(seen.embeddings[0], encoding.tail.embedding, rtol=1e-4, atol=1e-5)
    found = seen.evidence(directions)[0].numpy().reshape(5, *encoding.grid)
    expected = encoding.maps(directions, "hirescam")
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def test_the_best_patch_alone_must_tell_every_trait() -> None:
    """Zero once some patch, any one, leads for the true value; no less for evidence spread over all patches."""
    values = torch.stack([_values(_bird(seed)) for seed in (1, 2)])[:, None].expand(-1, 2, -1)
    starts = np.cumsum([0, *(len(options) for options in world.SLOTS.values())])[:-1]
    peaked, spread = torch.zeros(2, 2, len(world.TRAITS), 64)
    for i, row in enumerate(values[:, 0] + torch.from_numpy(starts)):
        for j, trait in enumerate(row):
            peaked[i, trait, (7 * i + j) % 64] = 64.0
            spread[i, trait] = 1.0
    assert float(train.peak_loss(peaked, values)) < 1e-3
    assert float(train.peak_loss(spread, values)) > 0.3


def test_agreement_is_least_where_both_are_seen_at_the_same_patch() -> None:
    part = torch.eye(4)[:2] * 20
    own = train.agreement_loss(part, part)
    assert own < train.agreement_loss(part.roll(1, 1), part)
    assert own < train.agreement_loss(torch.zeros_like(part), part)


def test_a_generic_text_belongs_between_the_true_traits_and_the_false_ones() -> None:
    values = torch.zeros(1, 2, len(world.SLOTS), dtype=torch.long)
    values[0, 1, 0] = 1  # the second bird has the second value of the first slot: both are true
    starts = np.cumsum([0, *(len(options) for options in world.SLOTS.values())])
    right = torch.full((1, int(starts[-1]) + 1), -10.0)
    right[0, -1] = 0
    right[0, starts[:-1]] = right[0, 1] = 10.0
    assert float(train.generic_loss(right, values)) < 1e-3
    assert float(train.generic_loss(torch.zeros_like(right), values)) == pytest.approx(np.log(2))
    forgotten = right.clone()
    forgotten[0, 1] = -10.0
    assert train.generic_loss(forgotten, values) > 0.2


def test_nearly_all_true_traits_reach_the_figure_that_goes_with_the_weights() -> None:
    values = torch.zeros(100, len(world.SLOTS), dtype=torch.long)
    cosines = torch.full((100, len(world.TRAITS)), -1.0)
    starts = np.cumsum([0, *(len(options) for options in world.SLOTS.values())])[:-1]
    cosines[:, starts] = torch.linspace(0, 1, 100)[:, None]
    assert train.present_above(cosines, values) == pytest.approx(0.01, abs=0.005)
    assert "crown 1.00" in train.trait_accuracy(cosines, values)


def test_caption_loss_leaves_out_true_captions_of_others() -> None:
    true = torch.tensor([[True, True, False, False], [False, True, False, False]])
    similarities = torch.zeros(2, 4)
    tempting = similarities.clone()
    tempting[0, 1] = 50.0  # text 1 is true of image 0 as well: no penalty for saying so
    own = train.caption_loss(tempting, true)
    assert torch.isfinite(own)
    assert own <= train.caption_loss(similarities, true) + 1e-6


@pytest.mark.slow
def test_training_resumes_where_it_stopped_and_packages_known_words(tmp_path: Path) -> None:
    recipe = train.Recipe(
        stages=(train.Stage(32, 2, (1e-3, 1e-4), borrowed=False, local=0), train.Stage(48, 2, (1e-3, 0.0), pairs=0.5)),
        batch=4,
        warmup=1,
        checkpoint_every=2,
    )
    train.train(recipe, tmp_path / "whole", device="cpu", log=tmp_path / "log")
    train.train(
        replace(recipe, stages=recipe.stages[:1]),
        tmp_path / "parts",
        device="cpu",
        log=tmp_path / "log",
    )
    whole = load_file(tmp_path / "whole" / "open_clip_model.safetensors")
    assert all(tensor.dtype == torch.float16 for tensor in whole.values())
    known = (whole["token_embedding.weight"] != 0).any(1)
    assert 50 < int(known.sum()) < 500
    assert (tmp_path / "parts" / "training.safetensors").exists()


def test_bundled_weights_fit_the_wheel() -> None:
    files = list(BUNDLED_FOLDER.glob("*.safetensors"))
    assert len(files) == 1
    state = load_file(files[0])
    touched = (state["token_embedding.weight"] != 0).any(1)
    bytes_left = sum(t.numel() * 2 for name, t in state.items() if name != "token_embedding.weight")
    assert bytes_left + int(touched.sum()) * 256 < 12 * 2**20
    config = json.loads((BUNDLED_FOLDER / "open_clip_config.json").read_text())
    assert config["model_cfg"]["vision_cfg"]["image_size"] == 160


def test_bundled_model_tells_pairs_apart_and_points_at_the_part_that_differs(bundled: Explainer) -> None:
    """On 60 held-out questions of each kind; the documentation's figures are of 500."""
    rows = benchmark.evaluate(bundled, methods=[Options().method], questions=60, seed=40_000)
    found = {(row.kind, row.objective): {name: f[0] for name, f in row.figures.items()} for row in rows}
    for kind in ("attribute", "species", "unseen"):
        finer = found[kind, "finer"]
        assert finer["pair accuracy"] >= 0.95, kind
        assert finer["pointing"] >= 0.70, kind
        assert finer["near"] >= 0.85, kind
        assert finer["energy"] >= 12 * finer["chance"], kind
    # Texts that name three parts: what the contrast shares is subtracted, so the map is more about what differs.
    for kind in ("species", "unseen"):
        finer, plain = found[kind, "finer"], found[kind, "similarity"]
        assert finer["pointing"] > plain["pointing"] + 0.3
        assert finer["energy"] > 1.5 * plain["energy"]
        assert finer["drop"] > plain["drop"]
    assert found["two birds", "finer"]["drop"] > found["two birds", "similarity"]["drop"]
    assert found["absent", ""]["auroc"] >= 0.95
    assert found["absent", ""]["flagged"] >= 0.8


def test_swapping_the_colours_of_two_birds_swaps_the_answer(bundled: Explainer) -> None:
    bird = _bird(77).with_trait("crown", "red").with_trait("tail", "blue")
    swapped = bird.with_trait("crown", "blue").with_trait("tail", "red")
    red, blue = "a bird with a red crown", "a bird with a blue crown"
    for one, best in ((bird, red), (swapped, blue)):
        similarities = bundled.explain(world.draw(one, 5, size=384).image, red, [blue]).similarities
        assert max(similarities, key=similarities.__getitem__) == best


def test_an_absent_target_is_flagged(bundled: Explainer) -> None:
    bird = _bird(78).with_trait("crown", "blue")
    image = world.draw(bird, 8, size=384).image
    absent = bundled.explain(image, "a bird with a red crown", ["a bird with a blue crown"])
    present = bundled.explain(image, "a bird with a blue crown", ["a bird with a red crown"])
    assert absent.caution is not None
    assert present.caution is None
    crown = world.draw(bird, 8, size=384).masks[0]["crown"]
    assert absent.heatmap[crown].mean() < present.heatmap[crown].mean()


def test_a_trait_that_is_not_there_is_flagged_without_any_contrast(bundled: Explainer) -> None:
    assert bundled.loaded.present_above is not None
    warned, said = [], []
    for seed in range(20):
        bird = _bird(seed)
        encoding = bundled.encode(world.draw(bird, seed, size=256).image)
        colours = world.SLOTS["wing"]
        absent = colours[(colours.index(bird["wing"]) + 1) % len(colours)]
        warned.append(encoding.explain(f"a bird with a {absent} wing").caution)
        said.append(encoding.explain(f"a bird with a {bird['wing']} wing").caution)
    assert sum(one is not None for one in warned) >= 16
    assert sum(one is not None for one in said) <= 1


def test_a_model_whose_weights_do_not_say_what_true_texts_reach_is_not_second_guessed(tiny: Explainer) -> None:
    assert tiny.loaded.present_above is None


def test_the_demo_points_at_the_part_it_names(tmp_path: Path) -> None:
    lines = demo.demo(tmp_path / "demo.png")
    assert any(world.part_of(demo.SLOT) in line for line in lines)
    assert (tmp_path / "demo.png").stat().st_size > 10_000


def test_the_bundled_picture_is_the_scene_that_it_claims_to_be() -> None:
    stored = np.asarray(demo.Image.open(demo.IMAGE).convert("RGB")).astype(int)
    assert np.abs(stored - demo.demo_scene().image).mean() < 2
