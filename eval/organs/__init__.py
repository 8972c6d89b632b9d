"""Several organs by one recipe, and one student for all of them: python -m eval.organs.

`lists` prepares the sets, `trainings` trains teacher, control and student of each by `eval/arms.py`, `scores` measures
them, and `page` writes the table.
"""
