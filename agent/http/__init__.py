"""What the device's page and the hub's console share: passwords, the guard in front of every request, and where they listen."""
