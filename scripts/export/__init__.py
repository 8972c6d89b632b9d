"""The student in formats that run without this bundle: python -m scripts.export.

`formats` lists and runs them, `writers` writes them, `whole` the one that takes pictures of any size, with `onnx_files`
for ONNX. `web/` makes a page for browsers of it. `metadata` is what each file says of itself. `cases` gives the images
to check on, and `check` compares each format with torch and keeps those that agree. `names` lists formats and files for
the program in `__main__`.
"""
