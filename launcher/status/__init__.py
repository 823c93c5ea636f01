"""How a run stands, found from its run directory and, on Vertex AI, from the API."""
