"""Checkpoints: written in the background, verified before they are trusted, retired by rule."""
