"""The local page and REST."""
