"""Calibrates the presence probability of a trained student: python -m eval.presence.

`scripts/evaluation/presence.py` fits it, `scripts/networks/presence.py` is what the student's file gets.
"""
