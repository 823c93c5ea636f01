"""A look around on two VMs of two CustomJobs, for ``swell doctor --probe``."""
