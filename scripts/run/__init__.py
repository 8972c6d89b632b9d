"""Around a run: its configuration, its folder, its processes, and the programs that start it.

The configuration is checked (`config_check`) before anything is built; the run writes to a `run_folder` and a
`history`, alone or with other processes (`distributed`), for an experiment tracker (`tracking`) or for MONAI Label
(`monai_label`).
"""
