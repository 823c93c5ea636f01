"""What a person sees: each view of runs in a file."""
