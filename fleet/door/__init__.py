"""The hub's door: where devices come in with their certificates, for what does not go over the broker."""
