"""Samples in shards: files of many samples each, in a bucket or a folder, in the format MDS."""
