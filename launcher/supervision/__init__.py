"""Sees a run through its attempts: a pure policy, and the loop around it."""
