"""Maps of a data set, resumable to the byte."""

from finercam_clip.runs.folder import images_root, read_manifest, read_maps
from finercam_clip.runs.generate import BATCH, Summary, generate
from finercam_clip.runs.records import geometry_in

__all__ = ["BATCH", "Summary", "generate", "geometry_in", "images_root", "read_manifest", "read_maps"]
