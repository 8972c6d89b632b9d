"""From networks and test cases to figures: metrics of every case, intervals, comparisons, subgroups, calibration.

`evaluate` measures rows (one for a case, network and seed), `case_table` checks them, `statistics` and `subgroups` read
the table, and `results` writes it to files.
"""
