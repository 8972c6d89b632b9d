"""configs/train.json as MONAI reads it, with overlays and changed ids, for the tests of what reads a configuration."""

from monai.bundle import ConfigParser

from scripts.run.workflow import CONFIGS


def train_config(*overlays: str, **changes) -> dict:
    """The configuration, not resolved.

    Args:
        overlays: names of files in configs/.
        changes: values by config id.
    """
    parser = ConfigParser(ConfigParser.load_config_files([str(CONFIGS / name) for name in ("train.json", *overlays)]))
    for id, value in changes.items():
        parser[id] = value
    return parser.config
