"""The page as a Hugging Face Space: the few lines that a Space runs."""

from finercam_clip.ui.models import first_model
from finercam_clip.ui.serve import serve

if __name__ == "__main__":
    serve(first_model(), host="0.0.0.0", port=7860)
