"""Checks a data set before a training: python -m scripts.check_data.

`survey` reads the lists and every file (`cases`), `findings` says what stands out, `suggest` chooses settings, and
`page` shows all of it with `pictures`.
"""
