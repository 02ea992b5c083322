"""Logistic regression by scikit-learn, on standardised features; the head that comes out reads raw ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finercam_clip import progress
from finercam_clip.errors import InputError

STRENGTHS: tuple[float, ...] = tuple(10.0 ** (half / 2) for half in range(-10, 7))  # scikit-learn's C, 1e-5 to 1e3
_FOLDS = 3
_ITERATIONS = 2000

Matrix = NDArray[np.float64]


def check_installed() -> None:
    """Raises InputError where scikit-learn is not there."""
    if find_spec("sklearn") is None:
        raise InputError("fit needs scikit-learn: pip install 'finercam_clip[fit]'")


def fitted(
    features: NDArray[np.float32], labels: NDArray[np.int64], strength: float | None, *, bias: bool, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """A linear head: multinomial logistic regression with an L2 penalty.

    Features are standardised on the images that are fitted, which is then folded into weight and bias.

    Args:
        features: [n, D], as the head will read them.
        labels: [n], 0 to K - 1, each at least twice.
        strength: scikit-learn's C, the inverse strength of regularisation; None: chosen by cross-validation.
        bias: Whether there is one. Without, features are scaled but not centred.
        seed: Of the folds.

    Returns:
        weight [K, D] and bias [K], each with mean 0 over classes, which softmax does not see; and C.
    """
    raw = features.astype(np.float64)
    if strength is None:
        strength = _chosen(raw, labels, bias, seed)
    regression, (mean, scale) = _regression(strength, bias), _standard(raw, bias)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        regression.fit((raw - mean) / scale, labels)
    if any("converge" in str(warning.message) for warning in caught):
        warnings.warn(f"the fit has not converged at C {strength:g}: give a smaller --C", stacklevel=2)
    weight, offset = regression.coef_, np.broadcast_to(regression.intercept_, len(regression.coef_))
    if len(weight) == 1:  # of two classes there is one row, for the second
        weight, offset = np.concatenate([-weight, weight]) / 2, np.concatenate([-offset, offset]) / 2
    weight = weight / scale
    offset = offset - weight @ mean
    weight, offset = weight - weight.mean(0), offset - offset.mean()
    return weight.astype(np.float32), offset.astype(np.float32), strength


def _standard(features: Matrix, bias: bool) -> tuple[Matrix, Matrix]:
    """What is taken from each feature, and what it is divided by, [D] each."""
    spread = features.std(0)
    scale = np.where(spread > 1e-12 * np.abs(features).max(), spread, 1.0)  # a constant feature tells nothing
    return (features.mean(0) if bias else np.zeros_like(scale)), scale


def _regression(strength: float, bias: bool, **settings: Any) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, fit_intercept=bias, max_iter=_ITERATIONS, **settings)


def _chosen(features: Matrix, labels: NDArray[np.int64], bias: bool, seed: int) -> float:
    """The smallest C whose log loss in cross-validation is within a standard error of the least (Breiman et al., 1984).

    C goes up from the smallest as long as it gets better. At the end the curve is flat, and its least value is chance:
    a C ten times larger than need be would make a worse head.
    """
    from sklearn.model_selection import StratifiedKFold

    folds = StratifiedKFold(min(_FOLDS, int(np.bincount(labels).min())), shuffle=True, random_state=seed)
    each = [_losses_of(features, labels, train, test, bias) for train, test in folds.split(features, labels)]
    means: list[float] = []
    allowed = np.inf
    for strength in progress.each(STRENGTHS, "cross-validation", unit="C"):
        losses = np.concatenate([of(strength) for of in each])
        if means and losses.mean() >= min(means):
            break
        means.append(float(losses.mean()))
        allowed = means[-1] + float(losses.std() / np.sqrt(len(losses)))
    return next(strength for strength, loss in zip(STRENGTHS, means, strict=False) if loss <= allowed)


def _losses_of(
    features: Matrix, labels: NDArray[np.int64], train: NDArray[np.int64], test: NDArray[np.int64], bias: bool
) -> Callable[[float], Matrix]:
    """C -> log losses of the images of one fold. Each fit begins where the one before has ended."""
    mean, scale = _standard(features[train], bias)
    standard = (features - mean) / scale
    regression = _regression(1.0, bias, warm_start=True)

    def losses(strength: float) -> Matrix:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            regression.set_params(C=strength).fit(standard[train], labels[train])
        chances = regression.predict_proba(standard[test])
        right: Matrix = chances[np.arange(len(test)), labels[test]]
        return -np.log(np.maximum(right, 1e-300))

    return losses
