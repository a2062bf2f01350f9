"""The method: Eq. 2 and the training pass over given draws. Needs torch and transformers, and no archive."""
