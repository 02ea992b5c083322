"""OpenCV, or one line that says how to get it. Modules import `cv2` from here."""

from finercam_clip.errors import InputError

try:
    import cv2
except ImportError as error:
    raise InputError(
        f"OpenCV does not load here ({error}). On a machine without libGL use the headless build: "
        "pip uninstall -y opencv-python opencv-python-headless && pip install opencv-python-headless"
    ) from error

__all__ = ["cv2"]
