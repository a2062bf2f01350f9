"""A run: a name, its settings, and the archive it works in. Here are the processes that a run owns, what it costs in
memory and disk, which of its weights stay, and what it reports. Only one process at a time can work on a run.
"""
