"""Looking after an archive: checking that it is whole, repairing it, merging small files, freeing disk space, and
repeating a pass to see that it gives the same weights. Nothing that a kept state needs is ever deleted.
"""
