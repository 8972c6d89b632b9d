"""A federation of clients that exchange the student's weights: python -m eval.federated.

`averaging` runs it in one process, `nvflare_job` and `nvflare_client` in NVFlare.
"""
