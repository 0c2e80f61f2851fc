"""Where frames come from. One file a source; the table is in `agent.registry`."""
