"""The demo: the bundled model explains a bundled picture whose answer is known to the pixel.

`python -m finercam_clip.aviary.demo` draws the bundled picture.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from finercam_clip import progress
from finercam_clip.aviary import drawing, world
from finercam_clip.errors import InputError
from finercam_clip.files import check_no_input
from finercam_clip.models import load
from finercam_clip.render import check_output

IMAGE = Path(__file__).parent / "demo.png"
BIRD = world.Bird(  # the colours of the parts, then patterns and shapes
    (
        *("red", "orange", "yellow", "white", "yellow", "brown", "blue", "pink", "black", "orange"),
        *("spotted", "striped", "hooked", "forked"),
    )
)
SEED, SIZE = 2126, 448  # of the picture: what `drawing.draw` draws from, and pixels along each side
SLOT, OTHER = "crown", "blue"  # where the two species differ, and what the contrast has there
SHARED = ("wing", "beak")  # slots that both texts name: the contrast must take them away


def demo_scene() -> drawing.Scene:
    """The bird of the bundled picture, drawn again so that its masks are known."""
    return drawing.draw(BIRD, SEED, size=SIZE)


def question() -> tuple[str, str]:
    """Target and contrast: two species that differ in one part."""
    shared = [(slot, BIRD[slot]) for slot in SHARED]
    return world.describe(((SLOT, BIRD[SLOT]), *shared)), world.describe(((SLOT, OTHER), *shared))


def demo(output: Path) -> list[str]:
    """Explains the bundled picture and writes the panel.

    Args:
        output: The panel's file.

    Returns:
        A few lines that say what the question was and what the answer is.

    Raises:
        InputError: `output` cannot be written, or is the bundled picture; or the map is hottest elsewhere than on the
            part that the texts name.
    """
    check_no_input(check_output(output), [IMAGE])
    scene = demo_scene()
    target, contrast = question()
    with progress.waiting("loading the bundled model"):
        explainer = load()
    explanation = explainer.explain(IMAGE, target, [contrast])
    explanation.save(output)
    peak = explanation.peak
    if peak is None or not scene.masks[0][world.part_of(SLOT)][peak[1], peak[0]]:
        raise InputError(
            f"the map is hottest at {peak}, outside the {SLOT}: this installation is damaged, reinstall it"
        )
    return [
        f"asked     where does the image say '{target}' and not '{contrast}'?",
        *(f"cosine    {cosine:6.3f}  {text}" for text, cosine in explanation.similarities.items()),
        f"hottest   {peak}, on the bird's {SLOT}",
        f"picture   {output}",
    ]


if __name__ == "__main__":
    Image.fromarray(demo_scene().image).save(IMAGE, optimize=True)
