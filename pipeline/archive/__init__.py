"""The archive on disk or in an object store: Delta tables, and beside them weights and optimizer states. Rows are added
in shards, which are committed once or not at all. Locks let several processes use one archive.
"""
