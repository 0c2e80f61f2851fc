"""Models and runtimes: one model card on any backend. Never imports `agent`."""
