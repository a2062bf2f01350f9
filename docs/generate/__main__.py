"""Writes the generated pages anew."""

from docs.generate import FOLDER, PAGES, text

for name in PAGES:
    (FOLDER / name).write_text(text(name))
