"""Stable ids for what is seen again from frame to frame."""
