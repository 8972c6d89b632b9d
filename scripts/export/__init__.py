"""The student in formats that run without this bundle, each checked against torch: python -m scripts.export.

`formats` writes and runs them, `check` compares them with torch and keeps those that agree.
"""
