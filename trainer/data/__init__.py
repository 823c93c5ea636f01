"""Data sets that are ready to use. Each module is imported by its own name, and late."""
