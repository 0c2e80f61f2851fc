"""The hub: what receives the events of many devices."""
