import torch, pytest
from conftest import run, TINY
STUDENT = {"_target_": "scripts.networks.tinyusfm.TinyUSFMSeg", "num_classes": "@data::num_classes", "img_size": "@data::img_size", **TINY}
@pytest.mark.parametrize("net", ["mimetic", "plain"])
def test_probe(overrides, net):
    changes = {"final_evaluation": None, "hardware::precision": "fp32", "teacher::precision": "fp32", "train::dataset::views": 2,
        "distillation::student_channels": 6, "training::num_epochs": 3, "training::lr": 1e-3}
    if net == "plain": changes["network_def"] = STUDENT
    st = {}
    for mode in ("online", "replay"):
        st[mode] = run({**overrides, **changes, "distillation::mode": mode, "run_folder::timestamp": mode}).parser.get_parsed_content("network").state_dict()
    start = run({**overrides, **changes, "distillation::mode": "online", "training::lr": 1e-12, "run_folder::timestamp": "start"}).parser.get_parsed_content("network").state_dict()
    tot = {}
    for n, v in start.items():
        if v.is_floating_point() and v.numel() > 1:
            tot[n] = (float((st["online"][n] - st["replay"][n]).norm()), float((st["online"][n] - v).norm()))
    a = sum(x[0]**2 for x in tot.values())**.5; m = sum(x[1]**2 for x in tot.values())**.5
    print("\nRATIO", net, a, m, a/m, 2**-6)
    for n, (x, y) in sorted(tot.items(), key=lambda t: -t[1][0])[:8]: print("   ", n, x, y)
