"""A run: a name, its settings, and the archive it works in. Here are the processes that a run owns, its cost in memory
and disk, the rule for which weights stay, and its reports. Only one process at a time can work on a run.
"""
