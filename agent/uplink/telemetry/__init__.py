"""What the device says about itself."""
