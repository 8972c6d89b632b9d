"""Hashes of content: each is what hashlib gives by hand, and tells one thing from another."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT

from scripts.utils import digests
from scripts.utils.digests import (
    array_digest,
    bytes_digest,
    content_digest,
    entry_digest,
    file_digest,
    json_digest,
    text_digest,
    weights_digest,
)

STATE = {"b": torch.tensor(3), "a": torch.arange(6.0).reshape(2, 3)}
# names, types, shapes and bytes in the order of the names
STATE_BYTES = (
    b"a torch.float32 (2, 3)\n" + np.arange(6, dtype=np.float32).tobytes() + b"b torch.int64 ()\n" + b"\3" + 7 * b"\0"
)


@pytest.mark.parametrize("block", [1, 4, 2**24])
def test_file_is_hashed_whole_whatever_is_read_at_once(tmp_path, monkeypatch, block):
    content = bytes(range(250)) * 3
    (tmp_path / "x.bin").write_bytes(content)
    monkeypatch.setattr(digests, "BLOCK", block)
    assert file_digest(tmp_path / "x.bin") == hashlib.sha256(content).hexdigest()
    assert file_digest(str(tmp_path / "x.bin")) == bytes_digest(content)


def test_bytes_and_texts():
    assert bytes_digest(b"abc") == hashlib.sha256(b"abc").hexdigest()
    assert content_digest(b"abc") == hashlib.blake2b(b"abc").hexdigest()
    assert text_digest("Größe") == hashlib.blake2b("Größe".encode(), digest_size=20).hexdigest()
    assert text_digest("abc", 8) == hashlib.blake2b(b"abc", digest_size=8).hexdigest()


def test_json_is_hashed_whatever_the_order_of_its_keys(tmp_path):
    value = {"b": [1, 2.5, None], "a": {"path": tmp_path}}
    text = json.dumps({"a": {"path": str(tmp_path)}, "b": [1, 2.5, None]})
    assert json_digest(value) == hashlib.blake2b(text.encode(), digest_size=20).hexdigest()
    assert json_digest(dict(reversed(value.items()))) == json_digest(value)
    assert json_digest([1, 2], 8) == hashlib.blake2b(b"[1, 2]", digest_size=8).hexdigest()


def test_array_is_hashed_in_c_order_with_its_note():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    expected = hashlib.blake2b(array.tobytes() + b"(2, 3)", digest_size=20).hexdigest()
    assert array_digest(array, "(2, 3)") == expected
    assert array_digest(np.asfortranarray(array), "(2, 3)") == expected
    assert array_digest(array, "(3, 2)") != expected


def test_weights_are_hashed_by_name_type_shape_and_bytes():
    assert weights_digest(STATE) == hashlib.sha256(STATE_BYTES).hexdigest()


def test_entry_is_hashed_with_its_labels():
    labels = {"owner": "me", "key": "abcd"}
    digest = hashlib.blake2b(b'{"key": "abcd", "owner": "me"}' + STATE_BYTES, digest_size=16)
    assert entry_digest(STATE, labels) == digest.hexdigest()
    assert entry_digest(STATE) == hashlib.blake2b(b"{}" + STATE_BYTES, digest_size=16).hexdigest()
    assert entry_digest(STATE, {**labels, "key": "abce"}) != entry_digest(STATE, labels)


@pytest.mark.parametrize("digest", [weights_digest, entry_digest])
def test_tensors_are_told_apart_by_all_but_their_order(digest):
    same = digest(dict(reversed(STATE.items())))
    assert digest(STATE) == same
    others = [
        {**STATE, "a": STATE["a"] + 1},
        {**STATE, "a": STATE["a"].reshape(3, 2)},
        {**STATE, "a": STATE["a"].view(torch.int32)},
        {"a": STATE["a"], "c": STATE["b"]},
    ]
    assert len({same, *map(digest, others)}) == 5


@pytest.mark.parametrize("digest", [weights_digest, entry_digest])
def test_tensors_of_every_type_and_layout_are_hashed(digest):
    state = {"half": torch.ones(2, dtype=torch.bfloat16), "flag": torch.tensor([True]), "empty": torch.ones(0)}
    trained = torch.ones(3, 2, requires_grad=True)
    assert digest({**state, "t": torch.ones(2, 3).t()}) == digest({**state, "t": trained})


def test_module_is_imported_without_torch():
    code = "import sys; import scripts.utils.digests; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr
