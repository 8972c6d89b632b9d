"""The bundle for others: python -m scripts.share.

`bundle` writes the zip and the Hugging Face repository, `model_card` its card, `sbom` the list of parts, and `manifest`
the list of checksums, which `signing` signs.
`verify` checks the bundle as MONAI's model zoo does.
"""
