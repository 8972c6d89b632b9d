"""One script of several modules: what a bundler does, for the few forms that page/ uses.

A module imports by `import {a, b} from "./name.js";` and exports by `export` in front of a declaration, and no two
modules declare the same name. In one script, imports and `export` fall away. A page opened from a file may load no
module from another file.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

_IMPORT = re.compile(r'^import \{[^}]*\} from "\./([a-z_]+\.js)";\n', re.M)
_EXPORT = re.compile(r"^export (?=const |let |function |async |class )", re.M)
_DECLARED = re.compile(r"^(?:const|let|(?:async )?function\*?|class) (\w+)", re.M)


def join_modules(folder: Path, entry: str) -> str:
    """The text of one script: a module and all that it imports, each once, before those that need it.

    Args:
        folder: of the modules.
        entry: name of the module.

    Raises:
        ValueError: two modules declare one name, or a module is in another form.
    """
    texts: dict[str, str] = {}

    def add(name: str) -> None:
        if name in texts:
            return
        texts[name] = ""  # a circle ends here
        source = (folder / name).read_text(encoding="utf-8")
        for other in _IMPORT.findall(source):
            add(other)
        del texts[name]
        texts[name] = _EXPORT.sub("", _IMPORT.sub("", source))

    add(entry)
    _check_modules(texts)
    return "\n".join(texts.values())


def _check_modules(texts: dict[str, str]) -> None:
    owners: dict[str, str] = {}
    for module, text in texts.items():
        strange = re.search(r"^(import|export)\b.*", text, re.M)
        if strange:
            raise ValueError(f"{module} has a form that is not joined: {strange[0]}")
        for name in _DECLARED.findall(text):
            if name in owners:
                raise ValueError(f"{owners[name]} and {module} both declare {name}; rename one.")
            owners[name] = module


def inline(text: str) -> str:
    """The text of a script or style that may stand in a page as it is.

    Raises:
        ValueError: it would end there.
    """
    if re.search(r"</(script|style)|<!--", text, re.I):
        raise ValueError("a script of the page holds a tag that would end it.")
    return text


def source_hash(text: str) -> str:
    """How a Content-Security-Policy names a script or style that stands in a page."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
