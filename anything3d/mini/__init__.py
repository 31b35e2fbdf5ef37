"""The mini world, its networks and their training."""
