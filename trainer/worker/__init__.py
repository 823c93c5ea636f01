"""One training process: what an agent starts for each slot."""
