"""How the bundle works; configs/ says which of it and how much.

The heart is right here: losses and loss_terms, trainer, optimization, metrics; beside it programs that a user starts:
make_datalist, convert_adapter, settings, verify. Everything else is in the room that it serves. An import leads from a
room to the floor below, utils last, never to a room beside it; tests/test_layout.py names the floors.
"""

from .utils.telemetry import switch_reports_off

switch_reports_off()
