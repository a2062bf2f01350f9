"""The tests, in the same folders as the code. `helpers` is what they share, and `whole` runs the real command with real
engines, crashes and full disks.
"""
