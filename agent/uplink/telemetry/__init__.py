"""What the device says about itself: one file for each thing that is measured."""

from agent.uplink.telemetry.loop import TelemetryLoop

__all__ = ["TelemetryLoop"]
