"""Tasks that come with Swell: to try it, and to learn from."""
