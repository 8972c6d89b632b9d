"""Small helpers of all other folders: files, digests, colors, hardware, machine, options, telemetry.

It imports nothing else of the bundle.
"""
