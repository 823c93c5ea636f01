"""A CustomJob's life: its states, its VMs and what befalls them, and what is kept of it."""
