"""The HTTP interfaces: Vertex AI, Cloud Logging, Secret Manager."""
