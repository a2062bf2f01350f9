"""The tests, in the same folders as the code. They share `helpers`; `whole` runs the real command with real
engines, crashes and full disks.
"""
