"""The package's version, below everything else, so that no file imports the front door for it."""

__version__ = "0.1.0"
