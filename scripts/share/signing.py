"""The signature beside a shared bundle's list: the library model-signing with a key pair, offline.

    openssl ecparam -name prime256v1 -genkey -noout -out private.pem
    openssl ec -in private.pem -pubout -out public.pem

One signature covers everything, since the list has the SHA-256 of every other file. `manifest.check_signature` checks
it. Surprise: the default of model-signing would ask a public service who you are; a key pair asks no one.
"""

from __future__ import annotations

from getpass import getpass
from pathlib import Path
from types import ModuleType

from ..utils.libraries import library
from .manifest import MANIFEST, SIGNATURE


def sign_manifest(folder: Path, private_key: Path) -> None:
    """Write the signature of a folder's list. Asks for the password of a key that has one.

    Args:
        folder: of the bundle, with its list.
        private_key: PEM file of an elliptic curve key (P-256, P-384 or P-521).

    Raises:
        FileNotFoundError: there is no such key.
        ImportError: model-signing is not installed.
        ValueError: the file holds no such key, or has another password.
    """
    if not private_key.is_file():
        raise FileNotFoundError(f"--sign {private_key} does not exist; make a key pair as docs/sharing.md shows.")
    signing = sign_library("model_signing.signing")
    encrypted = b"ENCRYPTED" in private_key.read_bytes()
    password = getpass(f"password of {private_key}: ").encode() if encrypted else None
    try:
        signer = signing.Config().use_elliptic_key_signer(private_key=private_key, password=password)
    except Exception as error:  # of several libraries
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"--sign {private_key} is no private key of an elliptic curve, in PEM: {reason}") from error
    signer.sign(folder / MANIFEST, folder / SIGNATURE)


def sign_library(name: str) -> ModuleType:
    """A module of the extra `sign`, imported only where it is used.

    Raises:
        ImportError: naming the extra.
    """
    return library(name, ".[sign]")
