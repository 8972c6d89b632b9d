"""Entries on disk: what their checksum covers, and which files are no hit."""

import torch
from safetensors.torch import save_file

from scripts.cache.entry_store import EntryStore
from scripts.utils.digests import entry_digest


def test_tensors_that_were_read_outlive_their_file(tmp_path):
    store, tensor = EntryStore(tmp_path, "me"), torch.arange(6.0)
    store.write("abcd", {"a": tensor})
    held = store.read("abcd")["a"]
    with open(store.path("abcd"), "r+b") as file:
        file.truncate(0)
    assert torch.equal(held, tensor)
    assert store.read("abcd") is None


def test_file_whose_checksum_is_not_that_of_its_content_is_no_entry(tmp_path, caplog):
    store, tensor = EntryStore(tmp_path, "me"), torch.arange(6.0)
    store.write("abcd", {"a": tensor})
    save_file({"a": tensor + 1}, store.path("abcd"), {"blake2b": entry_digest({"a": tensor})})
    assert store.read("abcd") is None
    assert "is damaged (its checksum differs): it counts as missing" in caplog.text


def test_entry_of_another_owner_or_key_is_none(tmp_path, caplog):
    store = EntryStore(tmp_path, "me")
    store.write("abcd", {"a": torch.arange(6.0)})
    assert EntryStore(tmp_path, "you").read("abcd") is None
    store.path("abcd").rename(store.path("abff"))
    assert store.read("abff") is None
    assert "is another's (of me, key abcd): it counts as missing" in caplog.text


def test_missing_entry_is_none_without_a_word(tmp_path, caplog):
    assert EntryStore(tmp_path, "me").read("other") is None
    assert not caplog.text
