"""A question about the bundled picture, which the tests of the page ask."""

from __future__ import annotations

from finercam_clip.aviary import demo, world

TARGET = world.describe(((demo.SLOT, demo.BIRD[demo.SLOT]),))  # true of the bundled picture
CONTRAST = world.describe(((demo.SLOT, demo.OTHER),))
OTHER = "a bird with a striped wing and red legs"
DEMO = str(demo.IMAGE)
