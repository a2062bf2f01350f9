"""The inputs of a run: the questions and the base policy. Both can be a user's own, or the built-in default: sums of
two-digit numbers, and a small model that is trained on worked examples here.
"""
