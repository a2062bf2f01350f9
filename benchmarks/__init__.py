"""Measurements, run by hand: what the archive, the trainer and the engines can do, and what replay gains in learning.
LOG.md has every figure that was measured, with its date, machine and command.
"""
