"""MONAI Label's app for bundles (0.8.5), with the strategy `least_sure` of this bundle: it takes the place of main.py.

    mv -n $LABEL/apps/monaibundle/main.py $LABEL/apps/monaibundle/bundle_app.py
    cp scripts/labeling/main.py $LABEL/apps/monaibundle/main.py

The app itself stays MONAI Label's own, which is bundle_app.py now. A bundle among `--conf models` brings the strategy
when it has a folder scripts/labeling; its name is `least_sure`, or `least_sure_MODEL` when several bundles bring one.
`--conf patient_regex EXPRESSION` finds the patient in the id of an image, as in scripts.make_datalist.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable, Hashable
from pathlib import Path
from types import ModuleType
from typing import Any

from monai.utils import convert_to_tensor
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.tasks.infer.basic_infer import CallBackTypes
from monailabel.utils.async_tasks.utils import processes
from monailabel.utils.others.class_utils import unload_module

logger = logging.getLogger(__name__)
NAME = "least_sure"


def load_bundle_app() -> ModuleType:
    """The module of MONAI Label's own app for bundles.

    Raises:
        FileNotFoundError: it was not kept.
    """
    path = Path(__file__).with_name("bundle_app.py")
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; keep monaibundle's own main.py under this name.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


bundle_app = load_bundle_app()


class BundleModules:
    """The modules of a bundle that are needed here, imported once, as MONAI Label imports a bundle's others.

    Args:
        bundle: its folder.
    """

    def __init__(self, bundle: str) -> None:
        sys.path.insert(0, bundle)
        unload_module("scripts")
        try:
            self.scoring = importlib.import_module("scripts.labeling.scoring")
            self.scores = importlib.import_module("scripts.labeling.scores")
            self.strategy = importlib.import_module("scripts.labeling.strategy")
            self.folders = importlib.import_module("scripts.data.folders")
            self.presence_key = importlib.import_module("scripts.inference.frames").PRESENCE
        finally:
            sys.path.remove(bundle)


class LabelingApp(bundle_app.MyApp, MONAILabelApp):  # MONAI Label takes the class that names MONAILabelApp itself
    """MONAI Label's app for bundles, with the strategy and the scoring method of bundles that bring them."""

    def init_strategies(self) -> dict[str, Strategy]:
        """Those of the app, and `least_sure`."""
        strategies = {name: parts.strategy.LeastSure(*self._reading(model, parts)) for name, model, parts in self._own}
        logger.info("+++ Adding Strategy and Scoring Method:: %s", ", ".join(strategies))
        return {**super().init_strategies(), **strategies}

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """Those of the app, and `least_sure`."""
        methods = {
            name: parts.scoring.StudentCertainty(self._segmenting(model, parts), self._reading(model, parts)[0])
            for name, model, parts in self._own
        }
        return {**super().init_scoring_methods(), **methods}

    def async_scoring(self, method: str | None, params: dict | None = None) -> dict[str, Any]:
        """Start scoring; of its own accord only what has something to do, since each starts a process."""
        if method:
            return super().async_scoring(method, params)
        own = {name for name, _, _ in self._own}
        waiting = [name for name in self._scoring_methods if name not in own or self._has_work(name)]
        return {name: super(LabelingApp, self).async_scoring(name, params) for name in waiting}

    def _has_work(self, name: str) -> bool:
        return not processes("scoring") and not self._scoring_methods[name].is_complete(self.datastore())

    @property
    def _own(self) -> list[tuple[str, str, BundleModules]]:
        """Name of the strategy, name of the model and modules of each bundle that brings one."""
        if not hasattr(self, "_modules"):
            folders = {model: Path(path) for model, path in self.models.items()}
            brought = [model for model, path in folders.items() if (path / "scripts" / "labeling").is_dir()]
            self._modules = {model: BundleModules(self.models[model]) for model in brought if model in self._infers}
            if not self._modules:
                logger.warning("no bundle of --conf models has a folder scripts/labeling: there is no %s", NAME)
        single = len(self._modules) == 1
        return [(NAME if single else f"{NAME}_{model}", model, parts) for model, parts in self._modules.items()]

    def _reading(self, model: str, parts: BundleModules) -> tuple[Any, Callable[[str], Hashable | None]]:
        """The file of the scores, and what finds the patient of an image."""
        find = parts.folders.patient_finder(self.conf.get("patient_regex"))

        def patient(image: str) -> Hashable | None:
            try:
                return find(image).get("patient")
            except ValueError:  # the expression does not match: the patient is unknown
                return None

        return parts.scores.ScoreFile(self.models[model], self.studies), patient

    def _segmenting(self, model: str, parts: BundleModules) -> Callable[[str], tuple[Any, Any]]:
        """What gives the logits of an image's file, and presence, by MONAI Label's own inference."""
        task = self._infers[model]
        request = {"model_filename": "model.pt", "skip_writer": True, "logging": "ERROR"}

        def segment(path: str) -> tuple[Any, Any]:
            kept = {}

            def keep(data: dict) -> dict:
                kept["logits"] = data[task.output_label_key]
                return data

            task({**request, "image": path}, callbacks={CallBackTypes.INFERER: keep})
            logits = kept["logits"]
            presence = getattr(logits, "meta", {}).get(parts.presence_key)
            values = None if presence is None else [float(value) for value in presence.flatten()]
            return convert_to_tensor(logits, track_meta=False).cpu(), values

        return segment
