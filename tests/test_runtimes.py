"""Three runtimes against PyTorch and each other on the same inputs, and each way of failing in one clear line."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from transformers import BertConfig, BertForTokenClassification

from mmalib import runtimes
from mmalib.records import machine
from mmalib.runtimes import deepsparse, ov

WHY_NOT = runtimes.available("deepsparse")
needs_deepsparse = pytest.mark.skipif(WHY_NOT is not None, reason=f"deepsparse is not available: {WHY_NOT}")
FLOAT = ("onnxruntime", "openvino", "openvino:shapes=fixed", "openvino:hint=throughput")
EACH = [*FLOAT, pytest.param("deepsparse", marks=needs_deepsparse)]
ONE_EACH = ["onnxruntime", "openvino", pytest.param("deepsparse", marks=needs_deepsparse)]
LABELS = 9
THREADS = min(2, machine.cores())


class Logits(torch.nn.Module):
    """The model with its inputs by position and its logits alone, as an exporter wants it."""

    def __init__(self, model, names):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs):
        return self.model(**dict(zip(self.names, inputs, strict=True))).logits


def export(model, folder, names=("input_ids", "attention_mask"), static=None):
    folder.mkdir()
    example = torch.ones(static or (2, 7), dtype=torch.int64)
    axes = None if static else {name: {0: "batch", 1: "length"} for name in (*names, "logits")}
    torch.onnx.export(
        Logits(model, names).eval(),
        tuple(example for _ in names),
        folder / "model.onnx",
        dynamo=False,
        opset_version=14,
        input_names=list(names),
        output_names=["logits"],
        dynamic_axes=axes,
    )
    return folder


@pytest.fixture(scope="module")
def model():
    """A random BERT of two layers whose tags are far enough apart to be told from each other."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=100,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        num_labels=LABELS,
        attn_implementation="eager",
    )
    model = BertForTokenClassification(config).eval()
    torch.nn.init.normal_(model.classifier.weight, std=0.5)
    return model


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    return export(model, tmp_path_factory.mktemp("float") / "tiny")


def batch(rows, length, seed=0):
    ids = np.random.default_rng(seed).integers(5, 100, (rows, length))
    mask = np.ones_like(ids)
    mask[0, length // 2 :] = 0  # the first row is half padding
    return ids, mask


@torch.inference_mode()
def expected(model, ids, mask, **more):
    return model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask), **more).logits.numpy()


class Calibration(CalibrationDataReader):
    def __init__(self):
        self.left = [batch(4, 16, seed) for seed in range(8)]

    def get_next(self):
        return dict(zip(("input_ids", "attention_mask"), self.left.pop(), strict=True)) if self.left else None


@pytest.fixture(scope="module")
def int8(folder, tmp_path_factory):
    """The same model in the three int8 formats of ONNX Runtime."""
    root = tmp_path_factory.mktemp("int8")
    for name, kind in (("qoperator", QuantFormat.QOperator), ("qdq", QuantFormat.QDQ)):
        (root / name).mkdir()
        quantize_static(
            folder / "model.onnx",
            root / name / "model.onnx",
            Calibration(),
            quant_format=kind,
            op_types_to_quantize=["MatMul", "Gemm"],
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"WeightSymmetric": True},
        )
    (root / "dynamic").mkdir()
    quantize_dynamic(folder / "model.onnx", root / "dynamic" / "model.onnx")
    return root


@pytest.mark.parametrize("runtime", EACH)
def test_logits_are_those_of_pytorch_at_any_batch_and_length(runtime, model, folder):
    with runtimes.load(folder, THREADS, runtime) as session:
        for rows, length in ((1, 5), (3, 16), (2, 33), (1, 5)):
            ids, mask = batch(rows, length)
            logits = session(ids, mask)
            assert logits.dtype == np.float32 and logits.shape == (rows, length, LABELS)
            assert np.abs(logits - expected(model, ids, mask)).max() < 1e-3


@pytest.mark.parametrize("runtime", ["openvino:hint=throughput", "openvino:hint=throughput:shapes=fixed"])
def test_a_stream_of_batches_comes_back_in_its_order(runtime, model, folder):
    pairs = [batch(2, 8 if number % 2 else 12, number) for number in range(9)]
    with runtimes.load(folder, THREADS, runtime) as session:
        for logits, pair in zip(session.stream(pairs), pairs, strict=True):
            assert np.abs(logits - expected(model, *pair)).max() < 1e-3


@pytest.mark.parametrize("runtime", EACH)
def test_threads_that_share_a_model_get_their_own_answers(runtime, model, folder):
    pairs = [batch(1, 8 + number % 3, number) for number in range(60)]
    with runtimes.load(folder, 1, runtime) as session, ThreadPoolExecutor(8) as pool:
        for logits, pair in zip(pool.map(lambda pair: session(*pair), pairs), pairs, strict=True):
            assert np.abs(logits - expected(model, *pair)).max() < 1e-3


@pytest.mark.parametrize("form", ["qoperator", "qdq"])
@pytest.mark.parametrize("runtime", EACH[1:])
def test_int8_tags_are_those_of_onnx_runtime(runtime, form, int8):
    ids, mask = batch(16, 40)
    with runtimes.load(int8 / form, 1) as reference, runtimes.load(int8 / form, THREADS, runtime) as session:
        same = reference(ids, mask).argmax(-1) == session(ids, mask).argmax(-1)
    assert same.mean() >= 0.99


def test_the_dynamic_int8_graph_runs_in_the_open_runtimes(model, int8):
    ids, mask = batch(16, 40)
    for runtime in ("onnxruntime", "openvino"):
        with runtimes.load(int8 / "dynamic", THREADS, runtime) as session:
            same = session(ids, mask).argmax(-1) == expected(model, ids, mask).argmax(-1)
        assert same.mean() >= 0.95


@pytest.mark.parametrize("runtime", ONE_EACH)
def test_a_graph_that_wants_token_types_gets_zeros(runtime, model, tmp_path):
    names = ("input_ids", "token_type_ids", "attention_mask")
    ids, mask = batch(2, 9)
    with runtimes.load(export(model, tmp_path / "types", names), 1, runtime) as session:
        logits = session(ids, mask)
    assert np.abs(logits - expected(model, ids, mask, token_type_ids=torch.zeros(2, 9, dtype=torch.long))).max() < 1e-3


def test_a_failure_that_may_be_gone_is_measured_again_whatever_else_failed():
    lasting, passing = (
        {"runtime": "onnxruntime", "failed": text} for text in ("not supported", "killed: out of memory")
    )
    assert runtimes.to_measure_again([passing, lasting]) and not runtimes.to_measure_again([lasting])


@pytest.mark.parametrize("runtime", ONE_EACH)
def test_static_shapes_are_served_or_refused_in_one_line(runtime, model, tmp_path):
    static = export(model, tmp_path / "static", static=(2, 7))
    with runtimes.load(static, 1, runtime) as session:
        ids, mask = batch(2, 7)
        assert np.abs(session(ids, mask) - expected(model, ids, mask)).max() < 1e-3
        with pytest.raises(RuntimeError, match=f"^{runtime} failed on ") as error:
            session(*batch(3, 7))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("shapes", [((0, 4), (0, 4)), ((2, 0), (2, 0)), ((2, 4), (2, 5)), ((4,), (4,))])
def test_what_is_no_batch_is_refused(shapes, folder):
    with runtimes.load(folder, 1) as session, pytest.raises(ValueError, match="are no batch"):
        session(*(np.ones(shape, dtype=np.int64) for shape in shapes))


@pytest.mark.parametrize("runtime", ONE_EACH)
def test_what_the_graph_cannot_compute_is_one_line_and_the_model_lives_on(runtime, model, folder):
    with runtimes.load(folder, 1, runtime) as session:
        with pytest.raises(RuntimeError, match=f"^{runtime} failed on ") as error:
            session(*batch(1, 600))  # it has 512 positions
        assert "\n" not in str(error.value) and len(str(error.value)) < 600
        ids, mask = batch(2, 6)
        assert np.abs(session(ids, mask) - expected(model, ids, mask)).max() < 1e-3


@pytest.mark.parametrize("runtime", ONE_EACH)
def test_a_file_that_is_no_model_is_one_line(runtime, tmp_path):
    (tmp_path / "model.onnx").write_text("no graph")
    with pytest.raises(ValueError, match=f"model.onnx could not be loaded in {runtime}: ") as error:
        runtimes.load(tmp_path, 1, runtime)
    assert "\n" not in str(error.value)


def test_a_graph_of_another_kind_is_refused(model, tmp_path):
    odd = export(model, tmp_path / "odd", ("input_ids", "position_ids"))
    with pytest.raises(ValueError, match="takes input_ids, position_ids. A token classifier takes"):
        runtimes.load(odd, 1)


def test_a_bad_folder_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="has no model.onnx"):
        runtimes.load(tmp_path, 1)
    with pytest.raises(ValueError, match="is not a folder"):
        runtimes.load(tmp_path / "gone", 1)


@pytest.mark.parametrize("threads", [0, -1, 10_000])
def test_threads_that_the_machine_does_not_have_are_refused(threads, folder):
    with pytest.raises(ValueError, match="cores may be used"):
        runtimes.load(folder, threads)


def test_settings_are_read_from_the_name():
    assert runtimes.parse("openvino:hint=throughput") == (
        "openvino",
        {"precision": "f32", "hint": "throughput", "shapes": "dynamic"},
    )
    with pytest.raises(ValueError, match="There is no runtime 'tvm'. Choose one of: onnxruntime, openvino, deepsparse"):
        runtimes.parse("tvm")
    with pytest.raises(ValueError, match="openvino takes precision=f32, precision=bf16"):
        runtimes.parse("openvino:precision=f16")
    with pytest.raises(ValueError, match="onnxruntime takes no settings"):
        runtimes.parse("onnxruntime:hint=latency")


def test_a_missing_runtime_says_so(folder, monkeypatch):
    monkeypatch.setattr(runtimes.importlib.util, "find_spec", lambda name: None)
    assert runtimes.available("openvino") == "openvino is not installed"
    with pytest.raises(ValueError, match="openvino is not available: openvino is not installed."):
        runtimes.load(folder, 1, "openvino")


def test_a_closed_model_says_so(folder):
    session = runtimes.load(folder, 1)
    session.close()
    session.close()
    with pytest.raises(ValueError, match="was closed"):
        session(*batch(1, 4))


def with_flags(monkeypatch, **flags):
    monkeypatch.setattr(machine, "flags", lambda: {**dict.fromkeys(machine.FLAGS, False), **flags})
    monkeypatch.setattr(machine.platform, "machine", lambda: "x86_64")


def test_openvino_computes_in_the_number_format_that_was_asked_for(model, folder):
    ids, mask = batch(2, 12)
    with runtimes.load(folder, 1, "openvino") as session:
        assert session.facts["precision"] == "f32" and session.facts["streams"] == 1
    if "BF16" not in ov.openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bfloat16")
    with runtimes.load(folder, 1, "openvino:precision=bf16") as session:
        error = np.abs(session(ids, mask) - expected(model, ids, mask)).max()
    assert 1e-4 < error < 0.2  # bfloat16 has 8 bits: neither as exact as float32 nor wrong


def test_bfloat16_on_a_cpu_without_it_is_one_line(folder, monkeypatch):
    class Plain:
        def get_property(self, *_):
            return ["FP32", "INT8"]

    monkeypatch.setattr(ov.openvino, "Core", Plain)
    with pytest.raises(ValueError, match=r"this CPU has no bfloat16 instructions \(OpenVINO lists FP32, INT8\)"):
        runtimes.load(folder, 1, "openvino:precision=bf16")


def test_openvino_calls_nobody(folder, tmp_path):
    # A process of its own, because openvino reports itself when it is first imported.
    program = """
import socket, sys, time
def refuse(*where, **_):
    print("called", where)
    raise OSError
socket.getaddrinfo = socket.socket.connect = refuse
from mmalib import runtimes
import numpy as np
with runtimes.load(sys.argv[1], 1, "openvino") as session:
    print(session(np.ones((1, 4), int), np.ones((1, 4), int)).shape)
time.sleep(0.5)
"""
    environment = {**os.environ, "HOME": str(tmp_path)}
    for name in ("CI", "TF_BUILD", "JENKINS_URL"):  # which would silence it anyway
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.stdout.split("\n") == ["(1, 4, 9)", ""], done.stderr
    assert not (tmp_path / "intel").exists()  # where it would keep the identity it reports


# ---- DeepSparse: its process and what may happen to it ----


def gone(process):
    """Whether a process ends soon (a zombie has ended)."""
    for _ in range(200):
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Our own Python in place of DeepSparse's, and a worker that does what the model's file says."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    worker = tmp_path / "worker.py"
    worker.write_text(
        f"import os, sys, time\nsys.path.append({str(deepsparse.WORKER.parent)!r})\n"
        "import deepsparse_worker as worker\n"
        "about = {'version': '0', 'isa': 'none', 'vnni': False}\n"
        "about['inputs'] = ['input_ids', 'attention_mask']\n"
        "out = os.fdopen(os.dup(0), 'wb')\n"
        "worker.send(out, about)\n"
        "question, payload = worker.receive(sys.stdin.buffer)\n"
        "exec(open(sys.argv[1]).read())\n"
    )
    monkeypatch.setattr(machine, "DEEPSPARSE", tmp_path / "venv")
    monkeypatch.setattr(deepsparse, "WORKER", worker)
    monkeypatch.setattr(machine, "deepsparse", lambda: ("0", None))
    monkeypatch.setattr(deepsparse.tempfile, "tempdir", str(tmp_path))

    def load(behaviour):
        folder = tmp_path / "model"
        folder.mkdir(exist_ok=True)
        (folder / "model.onnx").write_text(behaviour)
        return runtimes.load(folder, 1, "deepsparse")

    before = set(tmp_path.iterdir())
    yield load
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "model"}  # every one of these tests leaves nothing behind


DEATHS = {
    "os.kill(os.getpid(), 9)": r"the worker ended \(signal SIGKILL\): it said nothing",
    "sys.stderr.write('banner\\nAssertion at a\\n\\nTrace\\n'); sys.exit(1)": r"\(exit code 1\): Assertion at a$",
    "raise MemoryError('too big')": r"\(exit code 1\): MemoryError: too big",
    "sys.exit(0)": r"\(exit code 0\)",
    "out.write(bytes([9, 0, 0])); out.flush(); sys.exit(3)": r"\(exit code 3\)",  # in the middle of an answer
}


@pytest.mark.parametrize("behaviour", DEATHS)
def test_a_worker_that_dies_is_one_line_with_the_reason(behaviour, fake):
    session = fake(behaviour)
    with pytest.raises(RuntimeError, match=DEATHS[behaviour]) as error:
        session(*batch(1, 4))
    assert "\n" not in str(error.value)
    with pytest.raises(RuntimeError, match="the worker was stopped before; load the model again"):
        session(*batch(1, 4))
    assert gone(session.process)


def test_a_worker_that_hangs_is_stopped(fake, monkeypatch):
    session = fake("time.sleep(1000)")
    monkeypatch.setattr(deepsparse, "PATIENCE", 0.3)
    with pytest.raises(RuntimeError, match="gave no answer in 0 seconds and was stopped"):
        session(*batch(1, 4))
    assert gone(session.process)


def test_a_worker_that_does_not_even_read_is_stopped(fake, monkeypatch):
    session = fake("")
    os.kill(session.process, signal.SIGSTOP)
    monkeypatch.setattr(deepsparse, "PATIENCE", 0.3)
    with pytest.raises(RuntimeError, match="gave no answer"):
        session(*batch(64, 512))  # more than the pipe holds
    assert gone(session.process)


def test_closing_ends_the_worker_in_the_middle_of_its_work(fake):
    session = fake("time.sleep(1000)")
    session.close()
    assert gone(session.process)


def test_an_error_in_the_worker_is_an_error_here_and_the_worker_lives_on(fake):
    again = "worker.send(out, {'error': 'two\\nlines'}); question, payload = worker.receive(sys.stdin.buffer);" * 2
    with fake(again) as session:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="model.onnx: two lines$"):
                session(*batch(1, 4))


def test_why_deepsparse_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "DEEPSPARSE", tmp_path)
    assert runtimes.available("deepsparse") == "there is no .venv-deepsparse (make deepsparse)"
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    with_flags(monkeypatch, avx2=True)
    assert "is incomplete" in runtimes.available("deepsparse")
    with_flags(monkeypatch, avx2=False)
    assert runtimes.available("deepsparse") == "this CPU has no AVX2"
    (tmp_path / ".failed").write_text("no Python 3.8 to 3.11 was found\n")
    assert runtimes.available("deepsparse") == "no Python 3.8 to 3.11 was found"


@needs_deepsparse
def test_deepsparse_leaves_the_file_alone_and_reports_to_nobody(folder):
    content, files = (folder / "model.onnx").read_bytes(), os.listdir(folder)
    with runtimes.load(folder, 1, "deepsparse") as session:
        session(*batch(2, 6))
        session(*batch(1, 9))
        environment = Path(f"/proc/{session.process}/environ").read_bytes().split(b"\0")
    assert b"NM_DISABLE_ANALYTICS=True" in environment
    assert (folder / "model.onnx").read_bytes() == content and os.listdir(folder) == files


@needs_deepsparse
def test_a_graph_that_crashes_deepsparse_is_one_line(int8):
    with (
        runtimes.load(int8 / "dynamic", 1, "deepsparse") as session,
        pytest.raises(RuntimeError, match=r"the worker ended \(exit code 1\): Assertion at"),
    ):
        session(*batch(1, 4))


@needs_deepsparse
def test_the_worker_dies_with_its_parent(folder):
    program = (
        "import sys, time\nfrom mmalib import runtimes\n"
        "session = runtimes.load(sys.argv[1], 1, 'deepsparse')\n"
        "print(session.process, flush=True)\ntime.sleep(1000)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        worker = int(parent.stdout.readline())
        assert Path(f"/proc/{worker}").exists()
        os.kill(worker, signal.SIGSTOP)  # so that it cannot notice the closed pipe
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    assert gone(worker)


def test_onnx_runtime_is_given_its_threads(folder, monkeypatch):
    seen = []
    real = onnxruntime.InferenceSession

    def watched(path, options, **more):
        seen.append((options.intra_op_num_threads, options.inter_op_num_threads))
        return real(path, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", watched)
    runtimes.load(folder, THREADS).close()
    assert seen == [(THREADS, 1)]
