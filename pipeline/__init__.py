"""The stages of a run and everything they use. A stage reads a pinned state of the archive and its settings, and makes
new rows, which `archive/materialise.py` commits. Each folder here is a wing, and a wing imports only the wings before
it.
"""
