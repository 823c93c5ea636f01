"""What Swell's processes say to one another, who may speak, and who leads."""
