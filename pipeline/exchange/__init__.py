"""Brings data into and out of the archive: questions, rollouts that were made elsewhere, other archives, and exports. An
import is named after the file's contents, so importing the same file twice adds nothing. Rows that cannot be read are
kept in `rejects` with the reason.
"""
