"""Figures against Quantus (Hedström et al., JMLR 2023), where it defines the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from finercam_clip.evaluation import faithfulness, metrics
from finercam_clip.evaluation.protocol import TENTHS
from finercam_clip.render import peak_of

quantus = pytest.importorskip("quantus", reason="pip install quantus")

PLAIN = {"normalise": False, "abs": False, "disable_warnings": True}


def _cases() -> tuple[Any, Any]:
    """Heat without ties, and answers: [40, 1, 10, 20]."""
    rng = np.random.default_rng(0)
    heats = rng.gamma(1.0, size=(40, 1, 10, 20)).astype(np.float64)
    return heats, rng.random(heats.shape) < 0.2


def test_energy_is_relevance_mass_accuracy() -> None:
    """What differs: a map without any heat is NaN there, and 0 here."""
    heats, answers = _cases()
    theirs = quantus.RelevanceMassAccuracy(**PLAIN).evaluate_batch(a_batch=heats, s_batch=answers)
    own = [metrics.energy(heat[0], answer[0]) for heat, answer in zip(heats, answers, strict=True)]
    assert own == pytest.approx(list(theirs), abs=1e-6)


def test_pointing_is_the_pointing_game() -> None:
    """What differs: of several hottest pixels one on the answer is enough there. Here it is the first, row by row."""
    heats, answers = _cases()
    theirs = quantus.PointingGame(**PLAIN).evaluate_batch(a_batch=heats, s_batch=answers)
    own = [metrics.pointing(answer[0], peak_of(heat[0])) for heat, answer in zip(heats, answers, strict=True)]
    assert own == list(theirs)
    assert 0 < sum(own) < len(own)


def test_the_deletion_curve_is_pixel_flipping() -> None:
    """What differs: theirs begins after the first step, ours with the whole picture. Each channel is a feature
    there, so the pictures here are grey. Its area needs a function that NumPy no longer has."""
    rng = np.random.default_rng(1)
    pictures = rng.random((3, 1, 10, 20)).astype(np.float32)
    heats = rng.permutation(3 * 200).reshape(3, 1, 10, 20).astype(np.float32)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(200, 4)).eval()
    flipping = quantus.PixelFlipping(features_in_step=20, perturb_baseline=0.0, **PLAIN)  # a tenth
    labels = np.array([0, 1, 2])
    theirs = np.array(flipping(model, pictures, labels, heats, softmax=True, channel_first=True, device="cpu"))
    for i, label in enumerate(labels):
        picture, own = pictures[i].transpose(1, 2, 0), []
        for share in TENTHS[1:]:
            changed = faithfulness.without(picture, heats[i, 0], share, "black").transpose(2, 0, 1)
            with torch.no_grad():
                logits = model(torch.from_numpy(np.ascontiguousarray(changed, np.float32))[None]).numpy()
            own.append(float(faithfulness.softmax(logits)[0, label]))
        assert own == pytest.approx(theirs[i].tolist(), abs=1e-6)
