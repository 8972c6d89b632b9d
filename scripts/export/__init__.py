"""The student in formats that run without this bundle: python -m scripts.export.

`formats` writes and runs them, `cases` gives the images to check on, and `check` compares each format with torch and
keeps those that agree. `names` lists formats and files for the program in `__main__`.
"""
