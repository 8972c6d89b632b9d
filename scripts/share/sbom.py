"""The SBOM of a shared bundle: which weights and which packages it is made of, as CycloneDX 1.6 in JSON.

It has no date and a serial number made from its content, so that one commit gives one file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from .manifest import digest, files_below
from .signing import sign_library

SBOM = "sbom.cdx.json"
LICENSE = "Apache-2.0"
WEIGHTS = (".pt", ".pth", ".safetensors")


def write_sbom(folder: Path, name: str, metadata: Mapping[str, Any]) -> None:
    """Write the SBOM into a copy of the bundle: the files of weights in models/, the weights that are read from a
    package, and the packages of pyproject.toml. Those of its extras are optional; a version is the one of the metadata.

    Args:
        folder: of the copy.
        name: of the bundle.
        metadata: content of configs/metadata.json.

    Raises:
        ImportError: a library of the extra `sign` is not installed.
        FileNotFoundError: there is no pyproject.toml.
    """
    bom = sign_library("cyclonedx.model.bom").Bom()
    bundle = _component("MACHINE_LEARNING_MODEL", name, metadata["version"], description=metadata["description"])
    bundle.licenses.add(sign_library("cyclonedx.model.license").DisjunctiveLicense(id=LICENSE))
    parts = [*_weights(folder, metadata["version"]), *_packages(folder / "pyproject.toml", _versions(metadata))]
    bom.metadata.component, bom.metadata.timestamp = bundle, None
    bom.components.update(parts)
    bom.register_dependency(bundle, parts)
    bom.serial_number = uuid5(NAMESPACE_OID, "\n".join(_line(part) for part in [bundle, *parts]))
    text = sign_library("cyclonedx.output.json").JsonV1Dot6(bom).output_as_string(indent=1)
    (folder / SBOM).write_text(text + "\n", encoding="utf-8", newline="\n")


def _weights(folder: Path, version: str) -> Iterator[Any]:
    from ..networks.lite_medsam import PACKAGE, SHIPPED_SHA256  # imports torch

    for path in sorted(files_below(folder)):
        if path.endswith(WEIGHTS):
            yield _component("MACHINE_LEARNING_MODEL", path, version, sha256=digest(folder / path))
    yield _component(
        "MACHINE_LEARNING_MODEL",
        "lite_medsam.pth",
        sha256=SHIPPED_SHA256,
        description=f"base of the teacher, in the package {PACKAGE.replace('_', '-')}",
    )


def _packages(pyproject: Path, versions: Mapping[str, str]) -> Iterator[Any]:
    project = _toml().loads(pyproject.read_text(encoding="utf-8"))["project"]
    required = [("REQUIRED", text, "") for text in project["dependencies"]]
    for extra, texts in project.get("optional-dependencies", {}).items():
        required += [("OPTIONAL", text, extra) for text in texts]
    scopes = sign_library("cyclonedx.model.component").ComponentScope
    parts: dict[str, Any] = {}
    for scope, text, extra in required:
        requirement = sign_library("packaging.requirements").Requirement(text)
        package = requirement.name.lower().replace("_", "-")
        if package not in parts:
            version = versions.get(package)
            purl = sign_library("packageurl").PackageURL("pypi", None, package, version)
            parts[package] = _component("LIBRARY", package, version, scope=scopes[scope], purl=purl)
        _note(parts[package], "requirement", text)
        if extra:
            _note(parts[package], "extra", extra)
    yield from parts.values()


def _versions(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The version of each package that the metadata name."""
    main = {"monai": "monai_version", "torch": "pytorch_version", "numpy": "numpy_version"}
    return {package: metadata[key] for package, key in main.items()} | dict(metadata["required_packages_version"])


def _component(kind: str, name: str, version: str | None = None, sha256: str | None = None, **more: Any) -> Any:
    cyclonedx, component = sign_library("cyclonedx.model"), sign_library("cyclonedx.model.component")
    hashes = [cyclonedx.HashType(alg=cyclonedx.HashAlgorithm.SHA_256, content=sha256)] if sha256 else []
    return component.Component(
        name=name, version=version, type=component.ComponentType[kind], bom_ref=name, hashes=hashes, **more
    )


def _note(component: Any, name: str, value: str) -> None:
    component.properties.add(sign_library("cyclonedx.model").Property(name=name, value=value))


def _line(component: Any) -> str:
    notes = [f"{note.name}={note.value}" for note in component.properties]
    return " ".join([component.name, str(component.version), *(sum.content for sum in component.hashes), *notes])


def _toml() -> Any:
    try:
        return sign_library("tomllib")
    except ImportError:  # Python 3.10
        return sign_library("tomli")
