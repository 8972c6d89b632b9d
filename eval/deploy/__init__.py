"""An application of MONAI Deploy from DICOM series of ultrasound to DICOM SEG: python -m eval.deploy.

`images` hands on one image after the other, MONAI Deploy's own operator for bundles segments it by
configs/inference.json, and `segmentations` writes its mask. All needs monai-deploy-app-sdk (4.0).
"""
