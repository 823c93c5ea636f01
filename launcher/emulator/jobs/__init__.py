"""A CustomJob's life: its states, its VMs, and what is kept of it."""
