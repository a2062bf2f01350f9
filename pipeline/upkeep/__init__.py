"""Looks after an archive: checks that it is whole, repairs it, merges small files, frees disk space, and repeats a pass
to see that it gives the same weights. Files that a kept state needs are never deleted.
"""
