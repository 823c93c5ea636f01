"""A run as one page that shows itself: ``swell report``."""
