"""The local target: an emulator of its own for each launch, and the buckets it serves."""
