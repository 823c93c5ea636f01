"""The Spot market: how many VMs there are, and what befalls them."""
