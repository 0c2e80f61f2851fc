"""The bodies of the `almena` commands, imported only when called."""
