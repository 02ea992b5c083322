"""When a trait counts as present or absent: thresholds from a user's own labels, and how often they are right.

Per trait, a logistic regression gives the probability that the trait is there from its score alone. Above 0.8 it counts
as present, below 0.2 as absent, in between as uncertain. How often that is right is measured on images that were left
out in turn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from finercam_clip.datasets.lists import rows_of
from finercam_clip.errors import InputError, did_you_mean, shown
from finercam_clip.paths import place

SURE = 0.8  # probability
FEWEST = 5  # labelled images with the trait, and as many without it
PRESENT, ABSENT, UNCERTAIN = "present", "absent", "uncertain"
_YES, _NO = ("1", "yes", "true", PRESENT), ("0", "no", "false", ABSENT)

Answers = dict[str, dict[str, bool]]  # trait -> image name -> whether it is there


@dataclass(frozen=True)
class Threshold:
    """When a trait counts as present or absent.

    Attributes:
        present_above: From this score on it is present; infinite if the score says nothing about the trait.
        absent_below: Up to this score it is absent; minus infinite if the score says nothing.
        labelled: How many labelled images it was made from.
        decided: How many of them it would have decided if they had been left out.
        right: How many of those rightly.
        low: Lower end of the 95 % interval (Wilson) of right / decided, 0..1.
        high: Its upper end.
    """

    present_above: float
    absent_below: float
    labelled: int
    decided: int
    right: int
    low: float
    high: float

    def state(self, score: float) -> str:
        """ "present", "absent" or "uncertain"."""
        return _state(score, self.present_above, self.absent_below)

    def __str__(self) -> str:
        if not self.decided:
            return f"none of {self.labelled} labelled images decided"
        return f"{self.right} of {self.decided} right ({self.low:.2f} to {self.high:.2f}), {self.labelled} labelled"


def read_answers(path: str | Path, traits: Sequence[str], images: Sequence[str]) -> Answers:
    """A user's own labels: a CSV file with a column image, and a column per trait with 1, 0, or nothing.

    Args:
        path: The file.
        traits: The names of the traits.
        images: The names of the images.

    Raises:
        InputError: It names a trait or an image that is not there, or holds something else.
    """
    rows = rows_of(place(path, "the labels"))
    _, header = next(rows, (1, []))
    columns = [name.strip() for name in header]
    if len(columns) < 2 or columns[0].lower() != "image":
        raise InputError(f"{path}: the first line names the columns, image and traits; not {shown(','.join(header))}")
    for name in columns[1:]:
        if name not in traits or columns.count(name) > 1:
            why = "is there twice" if name in traits else f"is no trait of the table{did_you_mean(name, traits)}"
            raise InputError(f"{path}: the column '{name}' {why}")
    known, answers = set(images), Answers({name: {} for name in columns[1:]})
    for line, row in rows:
        image, *words = (field.strip() for field in row)
        if image not in known:
            raise InputError(f"{path}, line {line}: the data set has no image '{image}'{did_you_mean(image, images)}")
        for name, word in zip(columns[1:], words, strict=False):
            if word.lower() in (*_YES, *_NO):
                answers[name][image] = word.lower() in _YES
            elif word:
                raise InputError(
                    f"{path}, line {line}: '{name}' is 1 (present), 0 (absent) or empty; not {shown(word)}"
                )
    return answers


def calibrated(scores: Mapping[str, float], answers: Mapping[str, bool]) -> Threshold | None:
    """The thresholds of one trait.

    Args:
        scores: Image name -> the trait's score.
        answers: Image name -> whether it is there. Images without a score do not count.

    Returns:
        None if fewer than `FEWEST` images are labelled either way.

    Raises:
        InputError: scikit-learn is not installed.
    """
    images = [name for name in answers if name in scores]
    x = np.array([scores[name] for name in images], float)
    y = np.array([answers[name] for name in images], bool)
    if min(y.sum(), (~y).sum()) < FEWEST:
        return None
    whole = _fitted(x, y)
    decided = right = 0
    for i in range(len(x)):
        kept = np.arange(len(x)) != i
        said = _state(x[i], *_thresholds(_fitted(x[kept], y[kept])))
        decided += said != UNCERTAIN
        right += said == (PRESENT if y[i] else ABSENT)
    interval = binomtest(right, decided).proportion_ci(method="wilson") if decided else None
    low, high = (0.0, 1.0) if interval is None else (float(interval.low), float(interval.high))
    return Threshold(*_thresholds(whole), len(x), decided, right, low, high)


def _state(score: float, present_above: float, absent_below: float) -> str:
    return PRESENT if score >= present_above else ABSENT if score <= absent_below else UNCERTAIN


def _fitted(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """(slope, intercept) of a logistic regression of y on x."""
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise InputError("labels need scikit-learn: pip install 'finercam_clip[fit]'") from error
    mean, spread = float(x.mean()), float(x.std()) or 1.0
    model = LogisticRegression().fit((x[:, None] - mean) / spread, y)
    slope = float(model.coef_[0, 0]) / spread
    return slope, float(model.intercept_[0]) - slope * mean


def _thresholds(line: tuple[float, float]) -> tuple[float, float]:
    """Where the probability is `SURE`, and where 1 - `SURE`. A score that falls as the trait comes says nothing."""
    slope, intercept = line
    if slope <= 0:
        return math.inf, -math.inf
    away = math.log(SURE / (1 - SURE))
    return (away - intercept) / slope, (-away - intercept) / slope
