"""`python -m finercam_clip` is `finercam-clip`."""

import sys

from finercam_clip.cli import main

if __name__ == "__main__":
    sys.exit(main())
