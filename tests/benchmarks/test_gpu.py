"""The benchmark on a GPU, on the CPU at tiny size: that every way computes the same function, and what its file says."""

from __future__ import annotations

import dataclasses
import gc
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from benchmarks.gpu import ceiling, plan, results
from benchmarks.gpu.curve import verdict
from benchmarks.gpu.plan import OURS, TINY, Options, Row
from benchmarks.gpu.profiling import kind_of
from benchmarks.gpu.steps import attempted, measured
from benchmarks.gpu.tables import show
from benchmarks.gpu.training import MasterAdamW, training
from mixer_model.cost import cost
from tests.gang import run_gang

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
SHAPE = TINY.shapes["tiny"]
PLAIN = dataclasses.replace(OURS, compiled="no")


def losses(options: Options) -> list[float]:
    """In float32, where two ways differ by rounding only."""
    with training(options, SHAPE, 4, CPU) as made:
        made.model.float()
        made.images = made.images.float()
        made.optimizer = MasterAdamW(made.model)
        return [float(made.step()) for _ in range(3)]


@pytest.mark.parametrize(
    "changed",
    [
        {"layout": "turned"},
        {"layout": "batched"},
        {"recompute": "gelu"},
        {"layout": "kernel"},
        {"layout": "kernels"},
        {"gelu": "kernel"},
        {"layout": "kernels", "gelu": "kernel", "recompute": "gelu"},
        {"layout": "batched", "recompute": "gelu"},
        {"recompute": "block"},
        {"graph": True},
    ],
    ids=str,
)
def test_every_way_trains_the_same(changed: dict[str, Any]) -> None:
    """Three steps: the second and third loss are those of the gradients, not only of the forward."""
    wanted = losses(PLAIN)
    assert wanted[0] != wanted[1] != wanted[2]
    assert losses(dataclasses.replace(PLAIN, **changed)) == pytest.approx(wanted, rel=1e-5)


def test_fp8_is_near_and_not_the_same() -> None:
    wanted = losses(PLAIN)
    found = losses(dataclasses.replace(PLAIN, fp8="all"))
    assert found != pytest.approx(wanted, rel=1e-6)
    assert found == pytest.approx(wanted, rel=results.LIKE)


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
def test_timm_starts_from_the_same_weights_and_learns_the_same() -> None:
    assert losses(Options(whose="timm", compiled="no")) == pytest.approx(losses(PLAIN), rel=1e-5)


KINDS = (torch.Tensor, torch.nn.Parameter)


def through_deepspeed() -> dict[str, Any]:
    """The rows and ours in one process, as a call has them: each row with a process group of its own."""
    rows, compiled = {}, {}
    for row in [*plan.rows("main", TINY, {})[:1], *plan.rows("deepspeed", TINY, {})]:
        counters.clear()
        rows[row.key] = measured(row, TINY, CPU)
        compiled[row.label] = (counters["stats"]["unique_graphs"], dict(counters["graph_break"]))
    kept = sum(each.untyped_storage().nbytes() for each in gc.get_objects() if type(each) in KINDS)
    left = (torch.distributed.is_initialized(), torch.backends.cudnn.deterministic)
    return {"rows": rows, "compiled": compiled, "left": left, "kept": kept}


def test_deepspeed_computes_what_a_plain_loop_does() -> None:
    (found,) = run_gang(1, through_deepspeed)
    rows, stages = found["rows"], ["DeepSpeed ZeRO 1", "DeepSpeed ZeRO 2", "DeepSpeed ZeRO 3"]
    assert "deepspeed" in plan.chosen([])
    assert [row["label"] for row in rows.values()] == ["ours", *stages]
    first = rows["tiny, 4: ours"]["losses"]
    assert first[0] > first[3] * (1 + results.LIKE)  # so that an engine which moves no weight is seen
    for row in rows.values():
        assert row["status"] == "measured", row
        assert not results.differs(row, rows), (row["losses"], first)
    assert found["compiled"] == dict.fromkeys(["ours", *stages], (1, {}))  # graphs, breaks
    assert found["left"] == (False, False)
    assert found["kept"] < cost(SHAPE).params, "bytes that a later row would have in its peak"
    show({"rows": rows})


def test_without_deepspeed_its_rows_say_so_and_others_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    (first, *_), (eager, *_) = plan.rows("deepspeed", TINY, {}), plan.rows("eager", TINY, {})
    found = measured(first, TINY, CPU)
    assert (found["status"], found["why"]) == ("missing", "deepspeed is not installed")
    assert measured(eager, TINY, CPU)["status"] == "measured"


# torch's tracer looks at .grad of inner tensors and makes instances of Functions, and hides its own warnings about both
# only where warnings are not errors.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_what_is_best_together_compiles_once_for_all_blocks_and_is_measured() -> None:
    """Ten blocks: more than torch would compile one function anew for."""
    deep = dataclasses.replace(SHAPE, depth=10)
    options = Options(layout="kernels", gelu="kernel", recompute="gelu", fp8="forward")
    counters.clear()
    row = Row(group="best", label="x", size="tiny", batch=4, options=options)
    found = measured(row, dataclasses.replace(TINY, shapes={"tiny": deep}), CPU)
    assert found["status"] == "measured", found
    assert (counters["stats"]["unique_graphs"], counters["graph_break"]) == (1, {})
    assert found["images_per_s"] == pytest.approx(4000 / found["step_ms"], rel=0.01)
    assert found["tflops"] == pytest.approx(found["images_per_s"] * cost(deep).flops_train / 1e12, rel=0.01)


def test_the_master_copies_keep_what_bf16_would_lose() -> None:
    layer = torch.nn.Linear(4, 4).to(torch.bfloat16)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.bias.zero_()
    optimizer = MasterAdamW(layer, rate=1e-4)  # a 40th of what bf16 can tell from 1
    for _ in range(50):
        layer.weight.grad, layer.bias.grad = torch.ones_like(layer.weight), torch.zeros_like(layer.bias)
        optimizer.step()
    assert float(layer.weight.detach()[0, 0]) == pytest.approx(0.995, abs=0.004)
    assert layer.weight.grad is None
    assert not layer.bias.any()


def test_a_row_that_fails_says_why_and_ends_no_other() -> None:
    def fails() -> dict[str, Any]:
        raise ValueError("no such kernel")

    def fills() -> dict[str, Any]:
        raise RuntimeError("backend='inductor' raised: CUDA out of memory. Tried to allocate")

    assert attempted(fails, CPU)["why"] == "ValueError: no such kernel"
    assert attempted(fills, CPU)["status"] == "out of memory"


def test_the_products_of_a_block_are_its_cost() -> None:
    """Twelve products a block; the stem and the head are the rest of the network's."""
    shape = plan.FULL.shapes["H/14"]
    found = shape.depth * sum(each.flops for each in ceiling.products(shape, 2))
    rest = 2 * 2 * (2 * shape.tokens * 3 * shape.patch**2 * shape.dim + 3 * shape.dim * shape.classes)
    assert found + rest == 2 * cost(shape).flops_train
    assert ("token fc1", 2560, 640, 256) in {
        (each.name, each.m, each.n, each.k) for each in ceiling.products(shape, 2)
    }


def row(
    label: str, speed: float, *, batch: int = 128, size: str = "H/14", **options: Any
) -> tuple[str, dict]:
    made = Row(group="main", label=label, size=size, batch=batch, options=Options(**options))
    facts = {"status": "measured", "images_per_s": speed, "of_ceiling": speed / 1000, "losses": [7.0, 6.5]}
    about = {"label": label, "size": size, "batch": batch, "options": dataclasses.asdict(made.options)}
    return made.key, {**about, **facts}


def test_best_together_is_each_change_that_was_faster() -> None:
    rows = dict(
        [
            row("ours", 800.0),
            row("batched tokens", 820.0),
            row("gelu kernel", 810.0),
            row("max-autotune", 790.0),
            row("CUDA graph of the step", 803.0),
            row("fp8", 1000.0),
            row("fp8, fast sums", 1100.0),
        ]
    )
    best, fp8 = plan.rows("best", plan.FULL, rows)
    assert best.options == Options(layout="batched")
    assert fp8.options == Options(layout="batched", fp8="all")
    assert plan.rows("best", plan.FULL, {}) == []


def test_the_bars_compare_each_at_its_best_batch() -> None:
    rows = dict(
        [
            row("ours", 820.0),
            row("ours", 870.0, batch=256),
            row("timm compiled", 600.0, whose="timm"),
            row("timm compiled whole", 640.0, whose="timm", compiled="model"),
            row("timm eager", 900.0, whose="timm", compiled="no"),
            row("fp8", 1044.0, fp8="forward"),
            row("ours", 9000.0, size="B/16"),
            row("DeepSpeed ZeRO 1", 902.0, zero=1),
        ]
    )
    found = {each["name"]: (each["value"], each["reached"]) for each in results.bars({"rows": rows})}
    assert list(found.values()) == [(0.87, True), (1.359, True), (1.2, False)]
    assert results.reference(rows["H/14, 128: ours"], rows) == 640.0
    assert results.bars({}) == []
    assert results.of_plain(rows["H/14, 128: DeepSpeed ZeRO 1"], rows) == pytest.approx(1.1)
    assert results.of_plain(rows["H/14, 128: fp8"], rows) is None


def test_a_row_with_other_losses_is_marked() -> None:
    rows = dict([row("ours", 1.0), row("fp8", 1.0)])
    assert not results.differs(rows["H/14, 128: fp8"], rows)
    rows["H/14, 128: fp8"]["losses"] = [7.0, 6.9]
    assert results.differs(rows["H/14, 128: fp8"], rows)


def test_curves_are_held_against_what_another_seed_does() -> None:
    def curves(fp8: tuple[float, float], end: float = 1.0) -> dict[str, dict[str, Any]]:
        ends = {"bf16": (end, end + 0.1), "fp8": (end + fp8[0], end + 0.1 + fp8[1])}
        return {
            f"{precision}, seed {seed}": {
                "precision": precision,
                "seed": seed,
                "losses": [4.0, each],
                "end": each,
            }
            for precision, found in ends.items()
            for seed, each in enumerate(found)
        }

    assert ", within noise" in verdict(curves((0.03, -0.01)))["fp8"]
    assert "NOT within noise" in verdict(curves((0.2, 0.1)))["fp8"]
    assert "learned nothing" in verdict(curves((0.0, 0.0), end=3.9))["all"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("triton_poi_fused_addmm_gelu_3", "elementwise"),
        ("triton_red_fused_native_layer_norm_1", "reduction"),
        ("triton_tem_fused_mm_2", "gemm"),
        ("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_NNT", "gemm"),
        ("void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimizer"),
        ("Memcpy DtoD (Device -> Device)", "copy"),
        ("something else", "other"),
    ],
)
def test_kernels_are_sorted_by_their_names(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_cards_names_make_file_names() -> None:
    assert results.file_name("NVIDIA H200") == "gpu-nvidia-h200"


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_calls_add_to_one_file_and_say_what_they_left(tmp_path: Path) -> None:
    first = call("--tiny", "--only", "eager", "ceiling", "--out", str(tmp_path))
    assert first.returncode == 0, first.stderr
    second = call("--tiny", "--only", "main", "--minutes", "0", "--out", str(tmp_path))
    assert "not begun, 0 minutes were over: tiny, 4: ours; tiny, 4: timm compiled" in second.stdout
    tree = json.loads((tmp_path / "gpu-tiny.json").read_text())
    assert tree["rows"]["tiny, 4: ours eager"]["status"] == "measured"
    assert tree["ceiling"]["products"]["bf16_tflops"] > 0
    assert tree["bars"] == []  # those are of H/14
    assert {"machine", "versions", "command", "card"} <= set(tree)
    show(tree)


def test_without_a_gpu_it_says_what_to_do() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    done = call("--only", "main")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no CUDA device here; with --tiny it runs on the CPU" in done.stderr


def test_a_group_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="--only got 'speed'; allowed: ceiling, main, layout"):
        plan.chosen(["speed"])
    assert plan.chosen([]) == [name for name in plan.GROUPS if name not in plan.ASKED]
    assert plan.chosen(["best", "main"]) == ["main", "best"]
