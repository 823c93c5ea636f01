"""What a browser gets to see of runs, and who may have it do something."""
