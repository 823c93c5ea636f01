"""VMs: processes, network namespaces or containers, and what a VM has to offer."""
