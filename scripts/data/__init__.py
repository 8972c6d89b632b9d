"""2D ultrasound data: datalists, readers, DICOM pixels, views, augmentation, phantoms.

Data run from a datalist (`datalist`) through a reader (`readers`, of `pictures`, `nifti` and `dicom`; `brightness`,
`geometry`) and transforms (`transforms`) to a view of an image (`dataset`), which is what a batch is made of. Before, a
datalist is made of `folders` (pairs of files, `mask_files`) that `splits` deals out to lists, with `look_alikes` in one
of them.
"""
