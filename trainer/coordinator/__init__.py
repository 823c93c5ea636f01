"""The coordinator's process: who belongs to the world, and when a new one forms. Never torch."""
