"""The sanity checks pass on the bundled model, break only a copy of it, and can fail."""

from __future__ import annotations

import numpy as np
import pytest
from reference.models import model_of

from finercam_clip import InputError
from finercam_clip.aviary import sanity
from finercam_clip.explainer import Explainer


def test_no_questions_are_an_error() -> None:
    with pytest.raises(InputError, match="1 or more"):
        sanity.check_sanity(None, questions=0)  # type: ignore[arg-type]


def test_sanity_checks_pass_on_the_bundled_model(bundled: Explainer) -> None:
    before = {name: tensor.clone() for name, tensor in model_of(bundled).state_dict().items()}
    checks = sanity.check_sanity(bundled, questions=16)
    assert all(check.passed for check in checks), sanity.format_table(checks)
    correlations = [check.value for check in checks if check.check.startswith("random weights")]
    assert len(correlations) == 6
    assert all(np.isfinite(correlations))
    after = model_of(bundled).state_dict()
    assert all(bool((after[name] == tensor).all()) for name, tensor in before.items())  # it was a copy that was broken


def test_sanity_checks_fail_if_the_weights_do_not_matter(bundled: Explainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no layer loses its weights, the maps stay as they are, and the last figure of the cascade is out of bounds."""
    monkeypatch.setattr(sanity, "reset", lambda layer: None)
    checks = sanity.check_sanity(bundled, questions=2)
    cascade = [check for check in checks if check.check.startswith("random weights")]
    assert [check.value for check in cascade] == pytest.approx([1.0] * 6)
    assert [check.passed for check in cascade] == [True] * 5 + [False]
    assert "| at most 0.2 | FAILED |" in sanity.format_table(checks)
