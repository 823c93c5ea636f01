"""The folder of a torchrun script's own files, which outlives the VMs that it is on."""
