"""The public API from a user's point of view, for mypy: right calls have their types, wrong ones are errors.

It is checked and never run. An `ignore` that is not needed is an error, so each says that mypy finds that mistake.
"""

# mypy: warn-unused-ignores

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import finercam_clip
from finercam_clip import Explainer, Explanation, ImageEncoding, InputError, Options, Question
from finercam_clip.fitting import Fit
from finercam_clip.models import load_backbone

# -------------------------------------------------------------------------------------------------------------- loading

bundled: Explainer = finercam_clip.load()
clip: Explainer = finercam_clip.load("ViT-B-16", "openai", device="cuda", precision="bf16")
photos: Explainer = finercam_clip.load_classifier("photos")
cars: Explainer = finercam_clip.load_classifier(
    head=Path("cars.pth"), classes=["Acura RL Sedan 2012", "Audi S4 Sedan 2007"], pooling="mean", pretrained="random"
)
fitted: Fit = finercam_clip.fit("photos", "birds/", "head.safetensors", image_size=448, strength=0.01)
backbone: Explainer = load_backbone("vit_base_patch14_dinov2.lvd142m", pooling="mean")

finercam_clip.load("ViT-B-16", "openai", precision="fp8")  # type: ignore[arg-type]
finercam_clip.load(model="ViT-B-16")  # type: ignore[call-arg]
finercam_clip.load_classifier("photos", pooling="max")  # type: ignore[arg-type]
finercam_clip.load_classifier("photos", precision="half")  # type: ignore[arg-type]

# ------------------------------------------------------------------------------------------------------------ questions

array: NDArray[np.uint8] = np.zeros((90, 140, 3), np.uint8)

answer: Explanation = clip.explain("bird.jpg", "a red crown", ["a blue crown"])
answer = clip.explain(
    Path("bird.jpg"), ["a red crown", "a scarlet crown"], [["a blue crown", "an azure crown"], "a cap"]
)
answer = clip.explain(Image.new("RGB", (8, 8)), "a red crown", gamma=0.8, method="gradcam", objective="similarity")
answer = clip.explain(
    array, "a red crown", 3, vocabulary="bird-parts", similar_by="logits", templates=["a photo of {}"]
)
answer = clip.explain(array, "a red crown", pooling="mean", image_size="native", layer=-2, refine="affinity")
answer = clip.explain(array, "a red crown", image_size=(224, 448), layer=(0, "transformer.resblocks.1.ln_1"))
answer = clip.explain(array, "a cat", background=Path("scenery.txt"))
answer = clip.explain(array, "a cat", null=["a dog", "a tree"])
chance: float | None = answer.p_value
answer = clip.explain(array, "tiger cat", **finercam_clip.preset("finer-default"))

clip.explain(array, "a red crown", null=3)  # type: ignore[arg-type]
clip.explain(array, "a red crown", gama=1)  # type: ignore[call-arg]
clip.explain(array, "a red crown", gamma="1")  # type: ignore[arg-type]
clip.explain(array, "a red crown", pooling="max")  # type: ignore[arg-type]
clip.explain(array, "a red crown", objective="fine")  # type: ignore[arg-type]
clip.explain(array, "a red crown", image_size="big")  # type: ignore[arg-type]
clip.explain(array, "a red crown", image_size=(224, 224, 3))  # type: ignore[arg-type]
clip.explain(array, "a red crown", refine="crf")  # type: ignore[arg-type]
clip.explain(array, "a red crown", similar_by="name")  # type: ignore[arg-type]
clip.explain(array, "a red crown", layer=1.5)  # type: ignore[arg-type]
clip.explain(array, 3)  # type: ignore[arg-type]
clip.explain(array, "a red crown", None)  # type: ignore[arg-type]
clip.explain([array], "a red crown")  # type: ignore[arg-type]
clip.explain(array)  # type: ignore[call-arg]

question: Question = clip.question("a red crown", ["a blue crown"], gamma=1.0, method="layercam")
clip.question("a red crown", gama=1)  # type: ignore[call-arg]
clip.question("a red crown", precision="fp16")  # type: ignore[call-arg]

# --------------------------------------------------------------------------------------------------------- many of them

answers: list[list[Explanation]] = clip.explain_batch(
    ["bird.jpg", array], [("a red crown", ["a blue crown"]), (["a tail", "a long tail"], 2)], vocabulary="bird-parts"
)
clip.explain_batch([array], [("a red crown", ["a blue crown"])], pooling="max")  # type: ignore[arg-type]
clip.explain_batch([array], ["a red crown"])  # type: ignore[list-item]

encoding: ImageEncoding = clip.encode(array, pooling="token", layer="visual.ln_post")
encodings: list[ImageEncoding] = clip.encode([array, "bird.jpg", Path("bird.jpg")], image_size=448)
clip.encode(array, pooling="max")  # type: ignore[call-overload]
clip.encode(array, gamma=0.6)  # type: ignore[call-overload]
clip.encode(array, image_size="big")  # type: ignore[call-overload]
wrong: list[ImageEncoding] = clip.encode(array)  # type: ignore[assignment]

answer = encoding.answer(question)
answer = encoding.explain("a red crown", iter(["a blue crown"]), gamma=0.0)
maps: NDArray[np.float32] = encoding.heatmaps(["a red crown", ["a tail", "a long tail"]], ["a blue crown"])
directions: Tensor = clip.embed(["a red crown"], templates="templates-general")
maps = encoding.heatmaps(directions, directions, method="hirescam", objective="finer-softmax")
predictions: dict[str, float] = photos.encode("cat.jpg").predictions(3)
grid: tuple[int, int] = encoding.grid
embedding: Tensor = encoding.embedding

encoding.explain("a red crown", gama=1)  # type: ignore[call-arg]
encoding.heatmaps(["a red crown"], objective="fine")  # type: ignore[arg-type]
encoding.answer("a red crown")  # type: ignore[arg-type]

# -------------------------------------------------------------------------------------------------------------- answers

heatmap: NDArray[np.float32] = answer.heatmap
overlay: NDArray[np.uint8] = answer.overlay(opacity=0.5)
peak: tuple[int, int] | None = answer.peak
caution: str | None = answer.caution
boxes: list[tuple[int, int, int, int, float]] = answer.boxes(0.5)
similarities: dict[str, float] = answer.similarities
saved: Path = answer.save("crown.png")
text: str = answer.to_json()
options: Options = answer.options
Options(pooling="max")  # type: ignore[arg-type]
options.gamma = 1.0  # type: ignore[misc]


def errors() -> Iterator[str]:
    try:
        clip.explain("nowhere.jpg", "a red crown")
    except InputError as error:
        yield str(error)
