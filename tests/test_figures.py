"""Every figure of a map: against independent implementations, and ordered on maps of known quality."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special, stats

from finercam_clip.evaluation import faithfulness, metrics
from finercam_clip.render import peak_of

SHAPE = (60, 80)
PARTS = {"beak": [(20.0, 15.0)], "wing": [(60.0, 40.0), (62.0, 20.0)], "tail": [(10.0, 50.0)]}
RADIUS = 8.0
Map = NDArray[np.float32]


def truth() -> NDArray[np.bool_]:
    return metrics.discs(PARTS["beak"], RADIUS, SHAPE)


def maps() -> dict[str, Map]:
    """Maps of known quality, best first: the truth, the truth shifted by half of its width, noise, its complement."""
    heat = truth().astype(np.float32)
    noise = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    return {"truth": heat, "shifted": np.roll(heat, 8, axis=1), "noise": noise, "complement": 1 - heat}


# --------------------------------------------------------------------------------------- against other implementations


def test_average_precision_is_scikit_learns() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    for heat in (rng.random(SHAPE), rng.integers(0, 5, SHAPE).astype(float)):  # with and without ties
        theirs = sklearn.average_precision_score(truth().ravel(), heat.ravel())
        assert metrics.average_precision(heat, truth()) == pytest.approx(theirs, abs=1e-6)


def test_areas_are_scikit_learns() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    shares = [0, 0.05, 0.1, 0.3, 0.7, 1]
    values = np.random.default_rng(2).random(6).tolist()
    assert faithfulness.area(shares, values) == pytest.approx(sklearn.auc(shares, values), abs=1e-12)


def test_auroc_is_scikit_learns() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    positive, negative = np.random.default_rng(3).integers(0, 6, (2, 30)).astype(float)
    theirs = sklearn.roc_auc_score([1] * 30 + [0] * 30, [*positive, *negative])
    assert metrics.auroc(positive.tolist(), negative.tolist()) == pytest.approx(theirs, abs=1e-12)


def test_softmax_is_scipys() -> None:
    scores = np.random.default_rng(4).normal(0, 50, (3, 7)).astype(np.float32)
    assert faithfulness.softmax(scores) == pytest.approx(special.softmax(scores.astype(float), -1), abs=1e-12)


def test_rank_correlation_is_scipys_and_0_where_it_is_not_defined() -> None:
    heats, differences = np.random.default_rng(5).random((2, 9)).tolist()
    ranked = np.corrcoef(stats.rankdata(heats), stats.rankdata(differences))[0, 1]
    assert metrics.rank_correlation(heats, differences) == pytest.approx(ranked, abs=1e-12)
    assert metrics.rank_correlation([1, 1, 1], [1, 2, 3]) == 0


def test_energy_pointing_and_overlap_are_those_of_quantus() -> None:
    quantus = pytest.importorskip("quantus", reason="quantus is not installed")
    rng = np.random.default_rng(6)
    heats = rng.random((4, 1, *SHAPE))
    answer = truth()
    masks = np.repeat(answer[None, None], 4, axis=0)
    settings: dict[str, Any] = {"disable_warnings": True, "display_progressbar": False, "abs": False}

    def theirs(name: str, **more: Any) -> list[float]:
        metric = getattr(quantus, name)(normalise=False, **settings, **more)
        images = np.zeros((4, 3, *SHAPE))
        values = metric(model=None, x_batch=images, y_batch=np.zeros(4, int), a_batch=heats, s_batch=masks)
        return [float(value) for value in values]

    assert theirs("RelevanceMassAccuracy") == pytest.approx([metrics.energy(h[0], answer) for h in heats], abs=1e-6)
    pointed = [float(metrics.pointing(answer, peak_of(h[0]))) for h in heats]
    assert theirs("PointingGame") == pytest.approx(pointed)


# ------------------------------------------------------------------------------------- ordered on maps of known quality


def _place(figure: Callable[[Map, NDArray[np.bool_]], float]) -> dict[str, float]:
    return {name: figure(heat, truth()) for name, heat in maps().items()}


@pytest.mark.parametrize("figure", [metrics.energy, metrics.average_precision], ids=lambda figure: figure.__name__)
def test_energy_and_precision_order_maps_by_their_quality(figure: Callable[..., float]) -> None:
    values = _place(figure)
    assert values["truth"] == 1
    assert values["truth"] > values["shifted"] > values["noise"] > values["complement"]
    assert values["noise"] == pytest.approx(truth().mean(), abs=0.02)  # chance


def test_pointing_and_near_order_maps_by_their_quality() -> None:
    def distance(heat: Map, answer: NDArray[np.bool_]) -> float:
        peak = peak_of(heat)
        assert peak is not None
        return metrics.distance_to(answer, peak)

    values = _place(lambda heat, answer: float(metrics.pointing(answer, peak_of(heat))))
    assert (values["truth"], values["complement"]) == (1, 0)
    distances = _place(distance)
    assert distances["truth"] == 0 < distances["complement"]
    aside = np.roll(truth().astype(np.float32), 17, axis=1)  # it touches the truth at one pixel only
    assert distance(aside, truth()) < distance(np.roll(aside, 10, axis=1), truth())
    assert metrics.near(truth(), peak_of(np.roll(truth(), 3, axis=1)), 3)
    assert not metrics.near(truth(), peak_of(aside), 3)


def test_the_parts_own_disc_makes_it_the_hottest_and_the_nearest() -> None:
    ranks = {}
    for name, heat in maps().items():
        heats = metrics.part_heats(heat, PARTS, RADIUS)
        ranks[name] = metrics.rank_of("beak", heats)
        if name == "truth":
            assert metrics.nearest_part(peak_of(heat), PARTS) == "beak"
            assert metrics.rank_correlation(list(heats.values()), [3, 1, 1]) == pytest.approx(1)
        if name == "complement":
            assert metrics.rank_correlation(list(heats.values()), [3, 1, 1]) == pytest.approx(-1)
    assert ranks["truth"] == 1 == ranks["shifted"]
    assert ranks["complement"] == 0
    assert metrics.rank_of("beak", {"beak": 1.0, "wing": 1.0, "tail": 1.0}) == 0.5  # chance
    assert metrics.nearest_part(None, PARTS) is None


def test_a_disc_has_the_pixels_within_its_radius_and_is_cut_at_the_edge() -> None:
    inside = metrics.discs([(0.0, 5.0), (70.0, 30.0)], 3, SHAPE)
    for y, x in ((5, 0), (8, 0), (5, 3), (30, 70), (27, 70)):
        assert inside[y, x]
    for y, x in ((9, 0), (5, 4), (8, 1), (33, 71)):
        assert not inside[y, x]
    heats = metrics.part_heats(np.ones(SHAPE), {"edge": [(0.0, 5.0)], "outside": [(900.0, 5.0)]}, 3)
    assert heats == {"edge": 1.0, "outside": 0.0}


def test_overlap_is_1_of_equal_maps_0_of_opposite_ones_and_the_share_of_unrelated_ones() -> None:
    rng = np.random.default_rng(7)
    one, other = rng.normal(size=(2, 100, 100))
    assert metrics.top_overlap(one, one, 0.1) == 1
    assert metrics.top_overlap(one, -one, 0.1) == 0
    assert metrics.top_overlap(one, other, 0.1) == pytest.approx(0.1, abs=0.03)
    assert metrics.top_overlap(one, one + 0.3 * other, 0.1) > 0.5
    assert metrics.top_overlap(one[:2, :2], one[:2, :2], 0.1) == 1  # one cell at least


# ------------------------------------------------------------------------------------------------------------ masking


def world(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    """A model whose target is how bright the truth is, and whose contrast is how bright a patch beside it is."""
    beside = np.roll(truth(), 40, axis=1)
    return faithfulness.softmax(np.array([6 * picture[truth()].mean(), 6 * picture[beside].mean()]))


def bright() -> NDArray[np.float64]:
    picture = np.zeros((*SHAPE, 3))
    picture[truth()] = 1
    picture[np.roll(truth(), 40, axis=1)] = 1
    return picture + 0.01 * np.random.default_rng(8).random(picture.shape)


@pytest.mark.parametrize("fill", faithfulness.FILLS)
def test_drop_deletion_and_insertion_order_maps_by_their_quality(fill: str) -> None:
    picture = bright()
    shares = np.linspace(0, 1, 11).tolist()
    drop, deletion, insertion, contrast = {}, {}, {}, {}
    for name, heat in maps().items():
        drop[name] = faithfulness.confidence_drop(
            world(picture), world(faithfulness.without(picture, heat, 0.05, fill))
        )
        gone = [world(faithfulness.without(picture, heat, share, fill)) for share in shares]
        kept = [world(faithfulness.without(picture, -heat, 1 - share, fill)) for share in shares]
        deletion[name] = faithfulness.area(shares, [p[0] for p in gone])
        insertion[name] = faithfulness.area(shares, [p[0] for p in kept])
        contrast[name] = faithfulness.area(shares, [p[0] - p[1] for p in gone])
    assert drop["truth"] > drop["shifted"] > drop["noise"]
    assert drop["truth"] > drop["noise"] >= drop["complement"] - 0.02
    for figure in (deletion, contrast):  # the lower the better
        assert figure["truth"] < figure["shifted"] < figure["complement"]
        assert figure["truth"] < figure["noise"] < figure["complement"]
    assert insertion["truth"] > insertion["shifted"] > insertion["complement"]


@pytest.mark.parametrize("fill", faithfulness.FILLS)
def test_masking_takes_the_hottest_share_and_leaves_the_rest(fill: str) -> None:
    rng = np.random.default_rng(9)
    picture, heat = rng.random((*SHAPE, 3)), rng.random(SHAPE)
    masked = faithfulness.without(picture, heat, 0.1, fill)
    changed = (masked != picture).any(-1)
    assert changed.sum() == 480
    assert heat[changed].min() > heat[~changed].max()
    expected = {"black": np.zeros(3), "mean": picture.mean((0, 1))}
    if fill in expected:
        assert masked[changed] == pytest.approx(np.broadcast_to(expected[fill], (480, 3)))
    else:
        assert np.ptp(masked[changed]) < np.ptp(picture)
    assert (faithfulness.without(picture, heat, 0, fill) == picture).all()


def test_pixels_of_equal_heat_go_row_by_row() -> None:
    assert faithfulness.ranks(np.float32([[1, 2, 1], [2, 0, 1]])).tolist() == [[2, 0, 3], [1, 5, 4]]
