"""What is wrong with devices: rules, what they find, and telling people."""
