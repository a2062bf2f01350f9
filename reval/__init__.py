"""The method itself: the loss of ReVal (Eq. 2) and the other losses, and the trainer that runs a pass over given draws.
It needs torch and transformers but no archive, so it also runs on a machine that has nothing else of this project.
README.md beside this file compares the paper with the code.
"""
