"""Stands for the Python of an environment with nnU-Net: answers as the driver does there, and writes masks.

It is called as `stand_in DRIVER SETTINGS COMMAND WORDS ...` and keeps commands and words in calls.txt. Its masks are
the labels, moved two rows down. A file fail_nnUNetv2_train where it runs makes that command fail once.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image


def main(settings, command, *words):
    if command == "versions":
        print(json.dumps({"python": "3", "nnunetv2": "2.0"}))
        return
    if command == "parameters":
        print(json.dumps(123))
        return
    raw, prepared, results = (Path(os.environ[f"nnUNet_{name}"]) for name in ("raw", "preprocessed", "results"))
    with open(raw.parent / "calls.txt", "a") as file:
        file.write(json.dumps([command, *words]) + "\n")
    (dataset,) = raw.iterdir()
    fold = results / dataset.name / "nnUNetTrainer__nnUNetPlans__2d" / "fold_0"
    if command == "nnUNetv2_plan_and_preprocess":
        plan = {"patch_size": [64, 64], "batch_size": 4, "architecture": {"network_class_name": "a.PlainConvUNet"}}
        (prepared / dataset.name).mkdir(parents=True)
        (prepared / dataset.name / "nnUNetPlans.json").write_text(json.dumps({"configurations": {"2d": plan}}))
    elif command == "nnUNetv2_train":
        train(settings, fold, "--c" in words)
    elif command == "nnUNetv2_predict":
        predict(dataset, *(Path(words[words.index(option) + 1]) for option in ("-i", "-o")))


def train(settings, fold, goes_on):
    fold.mkdir(parents=True, exist_ok=True)
    failing = Path("fail_nnUNetv2_train")
    first, last = (1, settings["epochs"]) if goes_on else (0, 1 if failing.exists() else settings["epochs"])
    lines = [f"2026-01-01: Epoch {n} \n2026-01-01: Epoch time: {n + 2}.5 s \n" for n in range(first, last)]
    (fold / f"training_log_{2 if goes_on else 1}.txt").write_text("".join(lines))
    if failing.exists():
        failing.unlink()
        (fold / "checkpoint_latest.pth").touch()
        print("MemoryError: too little memory")
        sys.exit(3)
    (fold / "checkpoint_final.pth").touch()


def predict(dataset, images, masks):
    masks.mkdir(parents=True, exist_ok=True)
    for path in sorted(images.iterdir()):
        mask = masks / path.name.replace("_0000.png", ".png")
        if mask.exists():
            continue
        label = dataset / "labelsTr" / mask.name
        if label.exists():
            Image.fromarray(np.roll(np.asarray(Image.open(label)), 2, axis=0)).save(mask)
        else:  # of the test list, whose labels are not there
            shutil.copyfile(path, mask)
            Image.fromarray((np.asarray(Image.open(path)) > 128).astype(np.uint8)).save(mask)


if __name__ == "__main__":
    main(json.loads(sys.argv[2]), *sys.argv[3:])
