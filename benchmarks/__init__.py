"""Measurements, run by hand: how fast the archive, the trainer and the engines are, and what replay gains in learning.
LOG.md has every figure that was measured, with its date, machine and command.
"""
