"""A session of MONAI Label's own client, run by the Python of MONAI Label's environment; see test_monai_label.py.

    python tests/monai_label_session.py URL FOLDER

Reads requests {"call": NAME, "arguments": [...]}, one a line of JSON, calls that method of MONAILabelClient, and
answers with a line of JSON each: {"result": ...} or {"error": TEXT}. Masks are saved in FOLDER. Two names are none of
the client's: "geometry" reads an image file as 3D Slicer does, with ITK; "dicom_to_nifti" converts a file as MONAI
Label does with what a DICOMweb server gives it.
"""

import json
import sys

import itk
import numpy as np
from monailabel.client import MONAILabelClient


def geometry(path: str) -> dict:
    """Size (W, H, ...), spacing, origin and direction (LPS), and the values of an image file."""
    image = itk.imread(path)
    return {
        "size": list(itk.size(image)),
        "spacing": list(itk.spacing(image)),
        "origin": list(itk.origin(image)),
        "direction": itk.array_from_matrix(image.GetDirection()).tolist(),
        "values": np.unique(itk.array_view_from_image(image)).tolist(),
    }


def dicom_to_nifti(path: str) -> str:
    from monailabel.datastore.utils.convert import dicom_to_nifti as convert  # heavy

    return convert(path)


def main() -> None:
    client = MONAILabelClient(sys.argv[1], tmpdir=sys.argv[2])
    others = {"geometry": geometry, "dicom_to_nifti": dicom_to_nifti}
    for line in sys.stdin:
        request = json.loads(line)
        call = others.get(request["call"]) or getattr(client, request["call"])
        try:
            answer = {"result": call(*request["arguments"])}
        except Exception as error:  # the other side raises it
            answer = {"error": f"{type(error).__name__}: {getattr(error, 'msg', error)}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
