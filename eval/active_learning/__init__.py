"""Simulated labeling: images that the student is least sure of against random order: python -m eval.active_learning.

`pool` holds which images are labeled in a round, `rounds` trains and measures, `figures` compares the arms, `page` and
`plot` show it. The order itself is `scripts/labeling/order.py`, as MONAI Label gets it.
"""
