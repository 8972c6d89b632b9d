"""python -m sam_tinyusfm: the command `sam_tinyusfm`."""

import sys
from importlib import import_module

sys.exit(import_module(".api.command", __package__).main())
