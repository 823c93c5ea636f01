"""What computes a step in a world, and carries the state from one world to the next."""
