"""A signed bundle: what the key's owner signed is accepted offline, and nothing else is; and its SBOM."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bundles import NAME, VERSION, ZIP, make_repository
from conftest import ROOT
from walk import blocks

from scripts.networks.lite_medsam import SHIPPED_SHA256
from scripts.share import signing
from scripts.share.__main__ import main as share
from scripts.share.manifest import MANIFEST, SIGNATURE, digest, problems, read_manifest, write_manifest
from scripts.share.manifest import main as check
from scripts.share.sbom import SBOM

pytest.importorskip("model_signing.signing", reason="signing needs the extra sign")
pytest.importorskip("cyclonedx", reason="the SBOM needs the extra sign")
pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def make_keys(folder: Path, password: bytes | None = None) -> tuple[Path, Path]:
    """A private and a public key, in PEM."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder.mkdir(parents=True, exist_ok=True)
    key, pem = ec.generate_private_key(ec.SECP256R1()), serialization.Encoding.PEM
    locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    (folder / "private.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, locked))
    (folder / "public.pem").write_bytes(key.public_key().public_bytes(pem, form))
    return folder / "private.pem", folder / "public.pem"


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    return make_repository(tmp_path_factory.mktemp("repository") / "bundle")


@pytest.fixture(scope="module")
def made(repository, keys, tmp_path_factory):
    output = tmp_path_factory.mktemp("signed")
    assert share(["hub", "--bundle", str(repository), "--output", str(output), "--sign", str(keys[0])]) == 0
    return output / NAME


@pytest.fixture
def signed(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / NAME))


def test_signed_folder_is_accepted_with_the_public_key(signed, keys, capsys):
    assert check([str(signed), "--public_key", str(keys[1])]) == 0
    assert f", signed by the key of {keys[1]}" in capsys.readouterr().out
    assert problems(signed) == []
    assert SIGNATURE not in read_manifest(signed)


def test_zip_is_signed_too(repository, keys, tmp_path):
    options = ["--bundle", str(repository), "--output", str(tmp_path), "--sign", str(keys[0])]
    assert share(["zip", *options]) == 0
    shutil.unpack_archive(tmp_path / ZIP, tmp_path)
    assert check([str(tmp_path / NAME), "--public_key", str(keys[1])]) == 0


def test_changed_file_is_found_with_its_list_or_without(signed, keys, capsys):
    (signed / "scripts" / "losses.py").write_text("print('b')\n")
    assert check([str(signed), "--public_key", str(keys[1])]) == 1
    assert "changed     scripts/losses.py" in capsys.readouterr().err
    write_manifest(signed)  # as one does who changes a file
    assert check([str(signed)]) == 0
    assert check([str(signed), "--public_key", str(keys[1])]) == 1
    error = capsys.readouterr().err
    assert f"{SIGNATURE} is no signature of {MANIFEST} by the key of {keys[1]}; run nothing" in error
    assert "(the list was changed after it was signed)" in error


@pytest.mark.parametrize("spoil", [b"", b"{}", b"no signature", None])
def test_spoilt_signature_is_refused(signed, keys, capsys, spoil):
    path = signed / SIGNATURE
    if spoil is None:  # another's signature under a valid envelope
        content = json.loads(path.read_text())
        content["dsseEnvelope"]["signatures"][0]["sig"] = "MEUCIQCdhBe2FSW3"
        spoil = json.dumps(content).encode()
    path.write_bytes(spoil)
    assert check([str(signed), "--public_key", str(keys[1])]) == 1
    assert "is no signature of" in capsys.readouterr().err


def test_key_of_another_is_refused(signed, tmp_path, capsys):
    other = make_keys(tmp_path / "other")[1]
    assert check([str(signed), "--public_key", str(other)]) == 1
    assert f"is no signature of {MANIFEST} by the key of {other}" in capsys.readouterr().err


def test_unsigned_bundle_is_refused_where_a_key_is_given(signed, keys, capsys):
    (signed / SIGNATURE).unlink()
    assert check([str(signed)]) == 0
    assert check([str(signed), "--public_key", str(keys[1])]) == 1
    assert f"{SIGNATURE} does not exist; the bundle is not signed; ask the sharer" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "gone.pem", MANIFEST, "private.pem"])
def test_file_that_is_no_public_key_is_refused(signed, keys, capsys, name):
    path = {"": "", "private.pem": str(keys[0])}.get(name, str(signed / name))
    assert check([str(signed), "--public_key", path]) == 1
    error = capsys.readouterr().err
    assert "does not exist; pass the sharer's public key" in error or "is no public key of an elliptic curve" in error


@pytest.mark.parametrize("name", ["gone.pem", "README.md", "public.pem"])
def test_file_that_is_no_private_key_is_refused_before_anything_is_written(repository, keys, tmp_path, capsys, name):
    path = keys[1] if name == "public.pem" else repository / name
    options = ["--bundle", str(repository), "--output", str(tmp_path / "out"), "--sign", str(path)]
    assert share(["zip", *options]) == 1
    assert f"--sign {path} " in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*"))


def test_password_of_a_key_is_asked(tmp_path, monkeypatch):
    private, public = make_keys(tmp_path / "keys", b"secret")
    (tmp_path / "bundle").mkdir()
    write_manifest(tmp_path / "bundle")
    monkeypatch.setattr(signing, "getpass", lambda prompt: "secret")
    (tmp_path / "bundle" / MANIFEST).write_text(f"{'0' * 64}  a\n")
    signing.sign_manifest(tmp_path / "bundle", private)
    assert (tmp_path / "bundle" / SIGNATURE).is_file()
    monkeypatch.setattr(signing, "getpass", lambda prompt: "wrong")
    with pytest.raises(ValueError, match="is no private key of an elliptic curve, in PEM: "):
        signing.sign_manifest(tmp_path / "bundle", private)


def test_missing_library_is_named(signed, keys, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "model_signing.verifying", None)
    assert check([str(signed), "--public_key", str(keys[1])]) == 1
    assert "run pip install model-signing pyopenssl" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "model_signing.signing", None)
    with pytest.raises(ImportError, match=r"model_signing.signing cannot be imported .*; run pip install .\[sign\]"):
        signing.sign_manifest(signed, keys[0])


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_keys_of_the_page_sign_and_check(repository, tmp_path):
    texts = [text for _, text in blocks(ROOT / "docs" / "sharing.md")]
    (making,) = [text for text in texts if "openssl" in text]
    subprocess.run(["bash", "-ec", making], cwd=tmp_path, check=True, capture_output=True)
    options = ["--bundle", str(repository), "--output", str(tmp_path), "--sign", str(tmp_path / "private.pem")]
    assert share(["hub", *options]) == 0
    assert check([str(tmp_path / NAME), "--public_key", str(tmp_path / "public.pem")]) == 0


# the SBOM


def test_sbom_names_weights_and_packages_and_follows_the_schema(made):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = (made / SBOM).read_text(encoding="utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    sbom = json.loads(text)
    main, parts = sbom["metadata"]["component"], {part["name"]: part for part in sbom["components"]}
    assert (main["name"], main["version"], main["type"]) == (NAME, VERSION, "machine-learning-model")
    for name in ("models/model.pt", "models/model.safetensors"):
        assert parts[name]["hashes"] == [{"alg": "SHA-256", "content": digest(made / name)}]
    assert parts["lite_medsam.pth"]["hashes"][0]["content"] == SHIPPED_SHA256
    assert (parts["torch"]["scope"], parts["openvino"]["scope"]) == ("required", "optional")
    assert parts["torch"]["purl"] == f"pkg:pypi/torch@{parts['torch']['version']}"
    (dependencies,) = [entry["dependsOn"] for entry in sbom["dependencies"] if entry["ref"] == NAME]
    assert sorted(dependencies) == sorted(parts)
    assert SBOM in read_manifest(made)


def test_sbom_is_the_same_wherever_it_is_made(repository, made, tmp_path):
    assert share(["hub", "--bundle", str(repository), "--output", str(tmp_path)]) == 0
    assert (tmp_path / NAME / SBOM).read_bytes() == (made / SBOM).read_bytes()
    assert not (tmp_path / NAME / SIGNATURE).exists()
