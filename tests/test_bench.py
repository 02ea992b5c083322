"""The bench measures what it says."""

from __future__ import annotations

import pytest

from finercam_clip.bench import bench, format_table
from finercam_clip.explainer import Explainer


def test_every_row_is_measured(tiny: Explainer) -> None:
    rows = bench(tiny, runs=1)
    assert [row.name for row in rows][:4] == [
        "encode_image",
        "finercam_clip, 1 question",
        "finercam_clip, 32 questions",
        "finercam_clip, 1,000 questions",
    ]
    assert any("grad-cam" in row.name for row in rows)
    assert all(row.seconds > 0 and row.memory > 0 for row in rows)
    assert rows[0].ratio == rows[0].memory_ratio == 1
    assert not any(p.requires_grad for p in tiny.loaded.model.parameters())
    assert format_table(rows).count("\n") == len(rows) + 1


@pytest.mark.slow
def test_memory_on_vit_b_16_stays_near_a_bare_forward(
    vit_b_16: Explainer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("finercam_clip.bench.find_spec", lambda name: None)
    rows = bench(vit_b_16, runs=3)
    with capsys.disabled():
        print("\n" + format_table(rows))  # times are for reading: machines are too noisy to assert them
    assert all(row.memory_ratio <= 1.2 for row in rows)
