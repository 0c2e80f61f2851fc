"""What is done with a frame. One file a task; the table is in `agent.registry`."""
