"""The uplink process: identity, network, telemetry, the local page. Has no camera and no model."""
