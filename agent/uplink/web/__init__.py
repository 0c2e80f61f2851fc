"""The local page, its REST interface, Prometheus metrics and health."""
