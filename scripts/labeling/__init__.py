"""Which image to label next: the one that the student is least sure of, in MONAI Label and in a simulation.

`order` sorts images, and `eval/active_learning` uses it too. In MONAI Label `scoring` measures every unlabeled image
with the current student, `scores` keeps that in a file, and `strategy` reads it and offers an image. `main` is the app
that brings them into the server. docs/active_learning.md says how it is installed.
"""
