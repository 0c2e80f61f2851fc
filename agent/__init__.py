"""The Almena daemon: cameras in, facts out, none of them lost."""

__version__ = "0.1.0"
