"""What the API accepts: CustomJobs, their limits, and how they look on the wire."""
