"""The run directory: what lasts, and what reads and writes it. It imports nothing of Swell."""
