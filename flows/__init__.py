"""The two programs, `iterate` and `retrain`, on one page each, and the `reval` command. Which work is already done is
read from the archive.
"""
