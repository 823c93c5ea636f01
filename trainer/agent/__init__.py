"""A replica's agent: its entry point, its slots, and its link to whoever leads."""
