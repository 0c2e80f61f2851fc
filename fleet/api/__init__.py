"""The hub's REST interface, what happens live, metrics and health."""
