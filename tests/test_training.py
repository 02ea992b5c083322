"""The bundled model's training: what it draws, what it looks at, and that it goes on exactly where it stopped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from birds import bird, values_of
from reference.models import maps, model_of, tokenizer_of
from reference.stopped import batches_done, shrunk
from safetensors.torch import load_file, safe_open

from finercam_clip import training
from finercam_clip.aviary import drawing, network, samples, train, world
from finercam_clip.explainer import Explainer

# Three stages; the last has larger pictures and all five losses. Checkpoints come after steps 2, 4, 6 and 8: at the end
# of the first stage, at the end of the second, within the third, and at the end.
RECIPE = train.Recipe(
    stages=(
        train.Stage(32, 2, (1e-3, 6e-4), borrowed=False, local=0.0, hard=False, captions=0.0),
        train.Stage(32, 2, (6e-4, 5e-4)),
        train.Stage(48, 4, (5e-4, 0.0), local=0.5, captions=1.0, pairs=0.5, evidence=1.0, generic=0.25),
    ),
    batch=4,
    warmup=3,
    checkpoint_every=2,
)
STEPS = 8


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The bundled architecture with fewer and narrower layers, on one thread, so that a step takes no time."""
    path = tmp_path_factory.mktemp("small") / "config.json"
    vision, text = {"layers": 2, "width": 32, "head_width": 16}, {"layers": 1, "width": 32, "heads": 2}
    with shrunk(network, path, vision, text) as patch:
        patch.setattr(train, "HELD_OUT_BIRDS", 8)
        yield


@pytest.fixture(scope="module")
def whole(small: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run that nothing stopped has written."""
    output = tmp_path_factory.mktemp("whole")
    assert run(output) == STEPS
    return output


def run(output: Path, *, stop: int | None = None) -> int:
    """Trains to the end, or until batch `stop` of this run breaks. Returns how many batches were done."""
    return batches_done(train, lambda: train.train(RECIPE, output, device="cpu", log=output.with_suffix(".log")), stop)


def assert_same(one: Path, other: Path) -> None:
    """Two runs ended with the same weights, state of the optimizer and tokens, to the last bit."""
    for name in ("training.safetensors", "open_clip_model.safetensors"):
        tensors, others = load_file(one / name), load_file(other / name)
        assert tensors.keys() == others.keys()
        assert [key for key in tensors if not torch.equal(tensors[key], others[key])] == []
        with safe_open(one / name, "pt") as file, safe_open(other / name, "pt") as same:
            assert file.metadata() == same.metadata()


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 7])
def test_training_resumes_where_it_stopped_to_the_last_bit(whole: Path, tmp_path: Path, stop: int) -> None:
    """It stops before the first checkpoint, between two stages (of one size, of two sizes), and within a stage."""
    run(tmp_path, stop=stop)
    assert run(tmp_path) == STEPS - stop // 2 * 2  # it goes on from the last checkpoint
    assert_same(tmp_path, whole)


def test_training_may_stop_again_and_again_and_a_finished_run_trains_no_more(whole: Path, tmp_path: Path) -> None:
    for stop in (3, 3, 1):  # the second time after 2 + 3 steps, the third after 4 + 1
        run(tmp_path, stop=stop)
    assert run(tmp_path) == STEPS - 4
    assert_same(tmp_path, whole)
    assert run(tmp_path) == 0
    assert_same(tmp_path, whole)


def test_a_run_that_lost_the_state_of_its_optimizer_would_be_noticed(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests above can fail."""
    run(tmp_path, stop=7)
    monkeypatch.setattr(torch.optim.Optimizer, "load_state_dict", lambda *_: None)
    run(tmp_path)
    with pytest.raises(AssertionError):
        assert_same(tmp_path, whole)


def test_packaged_weights_are_fp16_and_know_the_words_of_training_only(whole: Path) -> None:
    path = whole / "open_clip_model.safetensors"
    weights = load_file(path)
    assert all(tensor.dtype == torch.float16 for tensor in weights.values())
    known = (weights["token_embedding.weight"] != 0).any(1)
    assert 50 < int(known.sum()) < 500
    with safe_open(path, "pt") as file:
        assert -1 <= float(file.metadata()["present_above"]) <= 1


def test_a_stage_with_evidence_needs_captions() -> None:
    with pytest.raises(ValueError, match="captions"):
        train.Stage(32, 1, (1e-3, 0.0), captions=0.0, evidence=1.0)


def test_training_never_sees_a_held_out_combination_in_picture_or_text() -> None:
    """Every tenth combination of the pairs of slots is one."""
    seeds = range(world.TRAINING_SEEDS, world.TRAINING_SEEDS + 60)
    pictures = samples.Pictures(32, seeds, [0.5] * 3, [0.25] * 3, pairs=0.5)
    values = torch.stack([pictures[i][1] for i in range(len(pictures))])
    for row in values.flatten(0, 1):
        traits = tuple((slot, options[i]) for (slot, options), i in zip(world.SLOTS.items(), row.tolist(), strict=True))
        assert not world.is_unseen(traits)
    texts: list[str] = []
    for seed in range(20):
        texts += samples.draw_captions(values, np.random.default_rng(seed)).texts
    both = [text for text in texts if "crown" in text and "breast" in text]
    assert len(both) > 20
    unseen = [
        (crown, breast)
        for crown in world.COLOURS
        for breast in world.COLOURS
        if world.is_unseen((("crown", crown), ("breast", breast)))
    ]
    for text in both:
        for crown, breast in unseen:
            assert not (f"{crown} crown" in text and f"{breast} breast" in text), text


def test_pictures_show_the_birds_whose_values_they_give() -> None:
    """Drawn again from the values, the picture is the same, up to rounding."""
    seeds = range(world.TRAINING_SEEDS, world.TRAINING_SEEDS + 12)
    pictures = samples.Pictures(48, seeds, [0.5] * 3, [0.25] * 3, pairs=0.5)
    two = 0
    for i, seed in enumerate(seeds):
        pixels, values = pictures[i]
        birds = [world.Bird(tuple(o[v] for o, v in zip(world.SLOTS.values(), row, strict=True))) for row in values]
        two += birds[0] != birds[1]
        shown = tuple(birds) if birds[0] != birds[1] else (birds[0],)
        image = drawing.draw(shown, (seed, 1), size=48).image
        assert np.abs((pixels.numpy().transpose(1, 2, 0) * 0.25 + 0.5) * 255 - image).max() < 0.01
    assert 0 < two < 12


def test_captions_say_what_is_true_of_which_picture() -> None:
    values = torch.stack(
        [torch.stack([values_of(bird(seed)), values_of(bird(seed + seed % 2 * 50))]) for seed in range(8)]
    )
    for seed in range(10):
        captions = samples.draw_captions(values, np.random.default_rng(seed))
        assert len(captions.texts) == 16
        assert captions.true.shape == (8, 16)
        assert bool(captions.true.diagonal().all())  # a picture's own caption is true of its first bird
        assert not bool(captions.true[:, 8:].diagonal().any())  # with one trait changed it is true of neither
        for i, (before, after) in enumerate(captions.swaps.T.tolist()):
            (slot, own), (same, other) = world.TRAITS[before], world.TRAITS[after]
            assert slot == same
            assert own == bird(i)[slot] != other
            assert own in captions.texts[i]
            assert other in captions.texts[8 + i]


def test_what_single_patches_say_in_training_is_the_map_of_hirescam(bundled: Explainer) -> None:
    encoding = bundled.encode(drawing.draw(bird(3), 3, size=128).image)
    look = network.look(model_of(bundled), encoding.forward.pixels, borrowed=False, local=False)
    directions = torch.randn(5, 256, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(look.embeddings[0], encoding.embedding, rtol=1e-4, atol=1e-5)
    evidence = look.evidence(directions)[0].numpy().reshape(5, *encoding.grid)
    expected = maps(encoding, directions, "hirescam")
    assert np.abs(evidence - expected).max() <= 1e-4 * np.abs(expected).max()


def test_texts_are_embedded_as_the_model_embeds_them(bundled: Explainer) -> None:
    tokens = tokenizer_of(bundled)(["a bird", "a bird with a red crown and a blue tail"])
    expected = model_of(bundled).encode_text(tokens, normalize=True)
    torch.testing.assert_close(training.encode_texts(model_of(bundled), tokens), expected, rtol=1e-4, atol=1e-5)


def test_nearly_all_true_traits_reach_the_figure_that_goes_with_the_weights() -> None:
    values = torch.zeros(100, len(world.SLOTS), dtype=torch.long)
    cosines = torch.full((100, len(world.TRAITS)), -1.0)
    starts = np.cumsum([0, *(len(options) for options in world.SLOTS.values())])[:-1]
    cosines[:, starts] = torch.linspace(0, 1, 100)[:, None]
    assert train.present_above(cosines, values) == pytest.approx(0.01, abs=0.005)
    assert "crown 1.00" in train.trait_accuracy(cosines, values)
