"""Maps of a data set, resumable to the byte, by one process or many.

shards    the unit of work, and who does which
store     where a run lies: a folder, or a place in an object store
ledger    what was asked: run.json
parts     the answers about a shard: one Parquet file
pictures  images, read and prepared ahead of the model
work      what a process does with its share
generate  maps in the paper's three modes
folder    reading a run, old or new
legacy    runs of earlier versions
gallery   pictures of a run
"""

from finercam_clip.runs.folder import each_record, images_root, read_manifest, read_maps, read_p_values, read_unreadable
from finercam_clip.runs.generate import BATCH, generate
from finercam_clip.runs.records import geometry_in
from finercam_clip.runs.shards import SHARD, Share
from finercam_clip.runs.work import Summary

__all__ = [
    "BATCH",
    "SHARD",
    "Share",
    "Summary",
    "each_record",
    "generate",
    "geometry_in",
    "images_root",
    "read_manifest",
    "read_maps",
    "read_p_values",
    "read_unreadable",
]
