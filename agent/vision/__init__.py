"""The vision process: sources, tasks, gallery. Knows nothing of MQTT."""
