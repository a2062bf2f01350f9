"""The stages of an iteration, one file each, in this order: generate, score, draw, reference, train, evaluate. Each
reads what the one before it committed, so a run that was stopped goes on at the stage it had come to.
"""
