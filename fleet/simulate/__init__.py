"""Many devices in one process, with the session, sender and outbox of the real uplink, that misbehave on command."""
