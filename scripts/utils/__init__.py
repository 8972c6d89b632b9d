"""Small helpers of all other folders: files, digests, colors, hardware, machine, options.

It imports nothing else of the bundle.
"""
