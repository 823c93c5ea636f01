"""What replicas print: from Cloud Logging, or from the emulator."""
