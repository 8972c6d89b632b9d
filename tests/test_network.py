"""No program looks up a name or opens a connection, and none leaves a file in the home folder.

Each runs as a user starts it, in a network namespace that has the loopback alone: nothing can leave the machine. strace
records what it tries, also in native libraries and in the processes that it starts. The same recorder sees the reports
of onnxruntime, openvino and mlflow where they are on.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import ROOT

from scripts.utils.telemetry import VARIABLES

# what tells libraries that no user is there, and so switches reports off by itself
MACHINE = {"CI", "GITHUB_ACTIONS", "TF_BUILD", "JENKINS_URL", "PYTEST_CURRENT_TEST", "PYTEST_VERSION"}
LOOPBACK_UP = (
    "import fcntl, os, socket, struct, sys\n"
    "fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sH14s', b'lo', 0x41, b''))  # SIOCSIFFLAGS, up and running\n"
    "os.execvp(sys.argv[1], sys.argv[1:])\n"
)
ADDRESS = re.compile(r'AF_INET6?, sin6?_port=htons\((\d+)\).*?(?:inet_addr\("|inet_pton\(AF_INET6, ")([^"]+)"')
RESOLVERS = re.compile(r'sun_path="[^"]*(?:resolve|dbus)[^"]*"')
NAMESPACE = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", LOOPBACK_UP]
TRACE = ["strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg"]
TRACKERS = [name for name in ("mlflow", "wandb") if find_spec(name)]


def can_trace() -> bool:
    """Whether this machine has both tools and lets them work."""
    if not all(map(shutil.which, ("unshare", "strace"))):
        return False
    return subprocess.run([*NAMESPACE, *TRACE, "-o", os.devnull, "true"], capture_output=True).returncode == 0


pytestmark = [pytest.mark.slow, pytest.mark.skipif(not can_trace(), reason="needs strace and network namespaces")]


def need(*packages: str) -> None:
    """Skip where one is not installed. It is not imported here."""
    for name in packages:
        try:
            version(name)
        except PackageNotFoundError:
            pytest.skip(f"{name} is not installed")


class Trace(NamedTuple):
    """What a program has tried.

    contacts: address:port of each look-up and each connection that leaves the machine.
    home: files in its home folder, relative.
    """

    contacts: list[str]
    home: list[str]


@pytest.fixture
def trace(tmp_path):
    """A function that runs Python with arguments in the bundle's folder, as a user of an empty home."""

    def run(*arguments: str, codes: tuple[int, ...] = (0,), **variables: str) -> Trace:
        home, log = tmp_path / "home", tmp_path / "trace.txt"
        home.mkdir(exist_ok=True)
        kept = {key: value for key, value in os.environ.items() if key not in {*VARIABLES, *MACHINE}}
        own = {"HOME": str(home), "MPLCONFIGDIR": str(tmp_path / "fonts"), "OMP_NUM_THREADS": "1", **variables}
        command = [*NAMESPACE, *TRACE, "-o", str(log), sys.executable, *arguments]
        done = subprocess.run(command, cwd=ROOT, env={**kept, **own}, capture_output=True, text=True, timeout=600)
        assert done.returncode in codes, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        files = [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()]
        return Trace(contacts(log.read_text(errors="replace")), sorted(files))

    return run


def contacts(text: str) -> list[str]:
    """The addresses of a record of strace that are no loopback, and every asking for a name."""
    found = {RESOLVERS.search(line)[0] for line in text.splitlines() if RESOLVERS.search(line)}
    for port, address in ADDRESS.findall(text):
        if port == "53" or not (address.startswith("127.") or address == "::1"):
            found.add(f"{address}:{port}")
    return sorted(found)


def test_recorder_tells_loopback_from_others():
    lines = [
        'connect(3, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("192.0.2.1")}, 16) = -1',
        'connect(3, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("127.0.0.53")}, 16) = 0',
        'connect(3, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("127.0.0.1")}, 16) = 0',
        "connect(3, {sa_family=AF_INET6, sin6_port=htons(443), sin6_flowinfo=htonl(0), "
        'inet_pton(AF_INET6, "2001:db8::1", &sin6_addr), sin6_scope_id=0}, 28) = 0',
        'connect(3, {sa_family=AF_UNIX, sun_path="/run/systemd/resolve/io.systemd.Resolve"}, 110) = 0',
    ]
    expected = ["127.0.0.53:53", "192.0.2.1:80", "2001:db8::1:443"]
    assert contacts("\n".join(lines)) == [*expected, 'sun_path="/run/systemd/resolve/io.systemd.Resolve"']


SESSION = """
import sys, time
import {first}
import numpy, onnx, onnxruntime
from onnx import TensorProto, helper
value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])
graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "g", [value("x")], [value("y")])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
session.run(None, {{"x": numpy.ones(1, numpy.float32)}})
time.sleep(25)  # its reports wait
"""


@pytest.mark.parametrize("first", ["onnxruntime", "scripts"])
def test_reports_of_onnxruntime_are_seen_unless_the_bundle_is_imported(trace, first):
    need("onnx", "onnxruntime")
    found = trace("-c", SESSION.format(first=first))
    if first == "scripts":
        assert found == Trace([], [])
    else:
        assert any(name.endswith(":53") for name in found.contacts)
        assert any(name.startswith(".cache/Microsoft/") for name in found.home)


@pytest.mark.parametrize("first", ["openvino", "scripts"])
def test_reports_of_openvino_are_seen_unless_the_bundle_is_imported(trace, first):
    need("openvino", "openvino-telemetry")
    found = trace("-c", f"import {first}, openvino; openvino.Core()")
    if first == "scripts":
        assert found == Trace([], [])
    else:
        assert any(name.endswith(":53") for name in found.contacts)
        assert any(name.startswith("intel/") for name in found.home)


def test_training_and_its_evaluation_contact_nobody(trace, overrides, tmp_path):
    """With every tracker that is installed, offline; MLflow's random id is written before a config is read."""
    configs = [f"configs/{name}.json" for name in ("train", *TRACKERS)]
    records = {f"{name}_record::store": str(tmp_path / name) for name in TRACKERS}
    own = {**overrides, **records, "training::num_epochs": 1}
    options = [text for key, value in own.items() for text in (f"--{key}", str(value))]
    found = trace("-m", "monai.bundle", "run", "training", "--config_file", str(configs), *options)
    assert (tmp_path / "logs" / "phantoms" / "run" / "test_results.txt").is_file()
    assert found.contacts == []
    written = {name for name in found.home if not name.startswith(".cache/wandb/logs/")}  # see docs/tracking.md
    assert written <= {".config/mlflow/telemetry.json"}


def test_inference_contacts_nobody(trace, phantoms, tmp_path):
    options = ["--dataset_dir", str(phantoms / "images"), "--output_dir", str(tmp_path / "masks")]
    found = trace("-m", "monai.bundle", "run", "--config_file", "configs/inference.json", *options)
    assert found.contacts == []
    assert set(found.home) <= {".config/mlflow/telemetry.json"}


def test_export_in_every_format_contacts_nobody(trace, tmp_path):
    need("onnx", "onnxscript", "onnxruntime", "openvino")
    options = ["--checkpoint", "models/model.pt", "--output", str(tmp_path / "export"), "--num_images", "2"]
    # 1: of so few images int8 may be refused, after it has been written and run
    assert trace("-m", "scripts.export", *options, "--formats", "all", codes=(0, 1)) == Trace([], [])
    assert Path(tmp_path / "export" / "student.onnx").is_file()


def test_user_who_asks_for_mlflows_reports_gets_them(trace):
    """The recorder sees Python's look-ups too, and the value of the user stays."""
    need("mlflow")
    code = "import scripts, mlflow, time; mlflow.set_experiment('a'); time.sleep(5)"
    found = trace("-c", code, MLFLOW_DISABLE_TELEMETRY="false", MLFLOW_TRACKING_URI="sqlite:///:memory:")
    assert any(name.endswith(":53") for name in found.contacts)
    assert trace("-c", code, MLFLOW_TRACKING_URI="sqlite:///:memory:").contacts == []
