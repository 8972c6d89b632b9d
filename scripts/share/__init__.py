"""The bundle as others get it: python -m scripts.share.

`bundle` writes the zip and the Hugging Face repository, `model_card` its card, `manifest` the list of checksums, and
`verify` checks the bundle as MONAI's model zoo does.
"""
