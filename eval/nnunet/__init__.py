"""nnU-Net v2 on the lists of a datalist, as an anchor for the bundle's own networks: python -m eval.nnunet.

`raw_data` writes the images for nnU-Net, `processes` starts its commands, `driver` is what they run in, `scoring`
measures the masks. nnU-Net lives in an environment of its own: it wants another version of timm than this bundle.
"""
