"""Names in an export that whoever runs it needs: its record, what goes in and what comes out. Imports nothing."""

from __future__ import annotations

EXPORT_RECORD = "export.json"
INPUT, OUTPUT, PRESENCE = "image", "logits", "presence"  # of the bare network
KEY = "sam_tinyusfm"  # under which a file has its metadata
