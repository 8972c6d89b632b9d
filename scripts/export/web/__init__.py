"""The page: a student that segments in a browser, in one HTML file without a server: --formats web.

`packages` finds the libraries that npm has installed, `scripts` makes one script of the modules in page/, and `write`
puts them, the student and an example into one file.
"""
