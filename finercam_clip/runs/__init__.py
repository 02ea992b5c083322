"""Maps of a data set, resumable to the byte."""

from finercam_clip.runs.folder import geometry_in, images_root, read_manifest, read_maps
from finercam_clip.runs.generate import BATCH, Summary, generate

__all__ = ["BATCH", "Summary", "generate", "geometry_in", "images_root", "read_manifest", "read_maps"]
