"""Questions to answers, and answers to HTML, pictures and numbers, all without a page."""

from __future__ import annotations

import base64
import io
import json
import re
import time
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finercam_clip.aviary import demo, drawing, world
from finercam_clip.errors import InputError
from finercam_clip.explainer import Explainer
from finercam_clip.ui import results
from finercam_clip.ui.ask import IncompleteError, Session, ask, examples
from finercam_clip.ui.models import keeping_models

from .question import CONTRAST, DEMO, OTHER, TARGET


@pytest.fixture(scope="module")
def named(bundled: Explainer) -> Any:
    """The models of a page that begins with the bundled one."""
    return keeping_models(bundled)


def picture(folder: Path, seed: int, size: int = 160) -> str:
    """The file of a picture of the bundled bird, drawn anew."""
    path = folder / f"bird-{seed}.png"
    Image.fromarray(drawing.draw(demo.BIRD, seed, size=size).image).save(path)
    return str(path)


# ------------------------------------------------------------------------------------------------- question to answer


def test_the_answer_is_the_explainers_own(bundled: Explainer, named: Any) -> None:
    session = ask(None, DEMO, TARGET, f"{CONTRAST}\n\n {OTHER} \n", gamma=0.3, method="gradcam", named=named)
    (answer,) = session.answers
    own = bundled.explain(DEMO, TARGET, [CONTRAST, OTHER], gamma=0.3, method="gradcam")
    np.testing.assert_array_equal(answer.grid, own.grid)
    assert answer.similarities == own.similarities


def test_a_map_is_compared_with_a_null_of_the_list(bundled: Explainer, named: Any) -> None:
    session = ask(None, DEMO, TARGET, CONTRAST, null="aviary", named=named)
    own = bundled.explain(DEMO, TARGET, [CONTRAST], null="aviary")
    assert session.answers[0].p_value == own.p_value
    assert own.significance is not None
    assert own.significance.summary in results.html(session)
    assert (results.picture(session) != results.picture(ask(session, DEMO, TARGET, CONTRAST, named=named))).any()
    two = ask(session, DEMO, TARGET, CONTRAST, second=DEMO, null="aviary", named=named)
    assert results.html(two).count("p-value") == 2
    with pytest.raises(InputError, match="everyday"):
        ask(session, DEMO, TARGET, CONTRAST, null="prompts/aviary.txt", named=named)


def test_an_image_is_encoded_once_for_all_its_questions(named: Any, tmp_path: Path) -> None:
    first = ask(None, DEMO, TARGET, CONTRAST, named=named)
    again = ask(first, DEMO, CONTRAST, OTHER, gamma=1, method="gradcam", named=named)
    assert not first.known
    assert again.known
    assert again.encodings == first.encodings
    assert not ask(again, DEMO, TARGET, "", method="clip-es", named=named).known  # another pooling
    other = ask(again, picture(tmp_path, 7), TARGET, CONTRAST, named=named)
    assert other.answers[0].image.shape == (160, 160, 3)
    assert ask(other, DEMO, TARGET, CONTRAST, named=named).known  # the image before is kept, too
    many = other
    for seed in range(8, 14):
        many = ask(many, picture(tmp_path, seed), TARGET, CONTRAST, named=named)
    assert len(many.encodings) == 4


@pytest.mark.timing
def test_a_further_question_takes_less_than_a_tenth_of_a_second(named: Any) -> None:
    session = ask(None, DEMO, TARGET, CONTRAST, named=named)
    seconds = [float("inf")]
    for i in range(50):  # until one does: what else the machine does is not ours
        start = time.perf_counter()
        session = ask(session, DEMO, TARGET, CONTRAST, gamma=i / 50, named=named)
        results.html(session)
        seconds.append(time.perf_counter() - start)
        if seconds[-1] < 0.1:
            break
    assert min(seconds) < 0.1


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no image": ({"image": None}, "there is no image yet"),
    "no target": ({"targets": " \n"}, "there is no target"),
    "target as contrast": ({"contrasts": TARGET}, "is the target itself"),
    "unknown word": ({"targets": "a bird with a zygomatic crown"}, "zygomatic"),
    "no such file": ({"image": "nowhere.png"}, "nowhere.png: no such file"),
    "unknown method": ({"method": "cam"}, "there is no method 'cam'"),
    "bad gamma": ({"gamma": -1.0}, "gamma is a number from 0"),
    "unknown model": ({"model": "ViT-B16"}, "did you mean"),
    "model without weights": ({"model": "ViT-B-16"}, "ViT-B-16 needs weights"),
    "no model": ({"model": " "}, "no model is named"),
    "too many": ({"targets": "\n".join(f"{TARGET} {i}" for i in range(101))}, "101 targets"),
}


@pytest.mark.parametrize(("changes", "fragment"), REFUSED.values(), ids=REFUSED)
def test_mistakes_are_one_line(named: Any, changes: dict[str, Any], fragment: str) -> None:
    question: dict[str, Any] = {"image": DEMO, "targets": TARGET, "contrasts": CONTRAST} | changes
    with pytest.raises(InputError, match=fragment):
        ask(None, named=named, **question)


def test_a_method_that_the_tower_cannot_is_one_line() -> None:
    with pytest.warns(UserWarning, match="RANDOM"), pytest.raises(InputError, match="this method is for transformers"):
        ask(None, DEMO, TARGET, CONTRAST, model="RN50 random", method="maskclip")


def test_a_page_keeps_its_first_model_and_the_last_two_others(
    bundled: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    monkeypatch.setattr("finercam_clip.models.load", lambda name, *_, **__: loads.append(name))
    models = keeping_models(bundled)
    for name in ("aviary", "a x", "b x", "a x", "b x", "c x", "a x"):
        models(name)
    assert models("aviary") is bundled
    assert loads == ["a", "b", "c", "a"]


def test_messages_are_the_errors_text_without_the_place_of_the_upload() -> None:
    shown = results.message(InputError("/tmp/x/y/<b>.jpg is\nno image"), "/tmp/x/y/<b>.jpg")
    assert "/tmp" not in shown
    assert "<b>" not in shown
    assert "<b>.jpg is no image" in unescape(shown)


def test_what_is_only_missing_yet_is_no_error_to_the_eye(named: Any) -> None:
    for changes in ({"image": None}, {"targets": " "}):
        with pytest.raises(IncompleteError) as incomplete:
            ask(None, named=named, **({"image": DEMO, "targets": TARGET, "contrasts": ""} | changes))
        assert "fc-error" not in results.message(incomplete.value)
    assert "fc-error" in results.message(InputError("no"))


def test_a_classifier_without_a_target_explains_what_it_predicts(photos: Explainer) -> None:
    session = ask(None, DEMO, "", "", model="photos", named=lambda name: photos)
    (answer,) = session.answers
    assert [answer.target] == list(photos.encode(DEMO).predictions(1))
    np.testing.assert_array_equal(answer.grid, photos.explain(DEMO, answer.target, 1).grid)
    (other,) = ask(session, DEMO, "", "tiger cat", model="photos", named=lambda name: photos).answers
    assert (other.target, other.contrasts) == (answer.target, ("tiger cat",))


# ------------------------------------------------------------------------------------------------------ two images


def test_two_images_are_asked_the_same_and_shown_on_one_scale(named: Any, tmp_path: Path) -> None:
    other = picture(tmp_path, 7)
    session = ask(None, DEMO, f"{TARGET}\n{OTHER}", CONTRAST, second=other, gamma=0.3, named=named)
    alone = ask(None, other, f"{TARGET}\n{OTHER}", CONTRAST, gamma=0.3, named=named)
    for answer, own in zip(session.second, alone.answers, strict=True):
        np.testing.assert_array_equal(answer.grid, own.grid)
    shown = results.html(session)
    assert [shown.count(f'data-shows="{place} image"') for place in ("first", "second")] == [2, 2]
    assert shown.count("both maps on one scale") == 2  # one per target
    assert results.picture(session).shape[1] < 1000
    said = [(answer["image"], answer["target"]) for answer in json.loads(results.numbers(session))]
    assert said == [(f"{place} image", text) for place in ("first", "second") for text in (TARGET, OTHER)]
    assert ask(session, other, TARGET, CONTRAST, second=DEMO, named=named).known


def test_one_scale_is_the_larger_of_both_maps(named: Any) -> None:
    """The same image with an eighth of the map must be drawn as the map itself times an eighth, not stretched."""
    (answer,) = ask(None, DEMO, TARGET, CONTRAST, named=named).answers
    faint = replace(answer, grid=answer.grid / 8)
    session = Session({}, (answer,), (faint,))
    shares = [int(share) for share in re.findall(r"hottest: (\d+) %", results.html(session))]
    highest = float(np.abs(answer.grid).max())
    assert shares == [round(100 * answer.grid.max() / highest), round(100 * answer.grid.max() / highest / 8)]
    pair = results.picture(session)
    half = pair.shape[1] // 2
    saturation = [np.ptp(side.astype(int), axis=2).max() for side in (pair[:, :half], pair[:, half:])]
    assert saturation[1] < 0.7 * saturation[0]
    nothing = Session({}, (replace(answer, grid=0 * answer.grid),) * 1, (replace(answer, grid=0 * answer.grid),))
    assert results.html(nothing).count("hottest: 0 %") == 2


def test_a_prediction_is_one_question_for_both_images(photos: Explainer, tmp_path: Path) -> None:
    session = ask(None, DEMO, "", "", second=picture(tmp_path, 7), model="photos", named=lambda name: photos)
    (first,), (second,) = session.answers, session.second
    assert (first.target, first.contrasts) == (second.target, second.contrasts)


# ------------------------------------------------------------------------------------------------- answer to pictures


def test_one_answer_shows_target_contrast_and_difference(named: Any) -> None:
    shown = results.html(ask(None, DEMO, TARGET, CONTRAST, named=named))
    assert [shown.count(f'data-shows="{name}"') for name in ("target alone", "contrast alone", "difference")] == [1] * 3
    assert shown.count('class="fc-bar') == 2 + 1  # two texts in one frame
    assert shown.count("fc-peak") == 1


def test_a_plain_map_and_a_caution(named: Any) -> None:
    plain = ask(None, DEMO, TARGET, "", named=named)
    assert results.html(plain).count("<img") == 1
    absent = ask(plain, DEMO, CONTRAST, TARGET, named=named)
    assert "the target may not be there" in results.html(absent)


def test_several_traits_are_a_grid_of_their_own_answers(named: Any) -> None:
    session = ask(None, DEMO, f"{TARGET}\n{OTHER}", CONTRAST, named=named)
    shown = results.html(session)
    assert shown.count('data-shows="trait"') == 2
    assert shown.index(TARGET) < shown.index(OTHER)
    alone = ask(session, DEMO, OTHER, CONTRAST, named=named)
    np.testing.assert_array_equal(session.answers[1].grid, alone.answers[0].grid)
    assert [answer["target"] for answer in json.loads(results.numbers(session))] == [TARGET, OTHER]
    assert results.picture(session).shape != results.picture(alone).shape
    assert json.loads(results.numbers(alone)) == json.loads(alone.answers[0].to_json())


def test_downloads_are_the_picture_and_the_numbers(named: Any) -> None:
    answers = ask(None, DEMO, TARGET, CONTRAST, named=named)
    kind, _, data = results.download(answers, "a.png").partition(";base64,")
    assert kind == "data:image/png"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        np.testing.assert_array_equal(image, results.picture(answers))
    kind, _, data = results.download(answers, "a.json").partition(";base64,")
    assert kind == "data:application/json"
    assert base64.b64decode(data).decode() == results.numbers(answers)


def test_texts_are_never_read_as_html(vit_b_16: Explainer) -> None:
    text = "<script>alert('no')</script> ${1 + 1} {{value}}"
    session = ask(None, DEMO, text, "&amp;", named=lambda name: vit_b_16)
    several = replace(session, answers=session.answers * 2)
    compared = replace(session, second=session.answers)
    for shown in (results.html(session), results.html(several), results.html(compared)):
        assert "<script" not in shown
        assert "&amp;amp;" in shown


def test_examples_are_true_of_the_bundled_image(named: Any) -> None:
    own = {world.describe((trait,)) for trait in demo.BIRD.traits}
    for label, (targets, contrasts) in examples().items():
        ask(None, DEMO, targets, contrasts, named=named)
        absent = label.startswith("absent")
        assert own.issuperset((contrasts if absent else targets).splitlines())
        assert own.isdisjoint((targets if absent else contrasts).splitlines())
