"""How much the hub stores, against a subscriber that only counts."""
