"""The two programs, `iterate` and `retrain`, on one page each, and the `reval` command. Nothing here decides what is
already done: the archive does.
"""
