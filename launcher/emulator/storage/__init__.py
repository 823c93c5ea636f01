"""Cloud Storage: buckets, objects, uploads, and faults on demand."""
