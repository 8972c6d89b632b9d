"""From files to masks: pictures, NIfTI and DICOM, stills and loops.

Images come in by `inputs` and `frame_reader`, pass the network frame by frame (`frames`), and go out as masks (`masks`,
`dicom_seg`), overlays (`overlays`), a table (`lesion_table`) and MONAI Label's results (`label_result`). What needs
neither torch nor MONAI stands in `frame_files`, `lesions`, `confidence` and `outlines`.
"""
