"""Imports OpenCV for the whole package. If it does not load, one line says how to get it.

Modules write `from finercam_clip.opencv import cv2`.
"""

from finercam_clip.errors import InputError

try:
    import cv2
except ImportError as error:
    raise InputError(
        f"OpenCV does not load here ({error}). On a machine without libGL use the headless build: "
        "pip uninstall -y opencv-python opencv-python-headless && pip install opencv-python-headless"
    ) from error

__all__ = ["cv2"]
