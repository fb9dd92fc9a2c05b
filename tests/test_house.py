"""The house of DESIGN.md: who may import whom, who owns which foreign library, and what stays light. Read from the imports."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STONES = ("mixer_model", "data_pipeline", "clusters")
PACKAGES = (*STONES, "orchestrator")


@functools.cache
def imports_of(path: Path) -> set[str]:
    """Absolute dotted names imported anywhere in a file."""
    found: set[str] = set()
    package = ".".join(path.relative_to(ROOT).with_suffix("").parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def users_of(library: str) -> set[str]:
    """Files that import `library`, by path."""
    hit = {
        path
        for path in FILES
        for name in imports_of(path)
        if name == library or name.startswith(library + ".")
    }
    return {str(path.relative_to(ROOT)) for path in hit}


def test_the_three_stones_import_neither_one_another_nor_the_orchestrator() -> None:
    for path in FILES:
        home = path.relative_to(ROOT).parts[0]
        if home in STONES:
            others = set(PACKAGES) - {home}
            roots = {name.split(".")[0] for name in imports_of(path)}
            assert not roots & others, f"{path.relative_to(ROOT)} imports {roots & others}"


def test_each_foreign_library_has_its_owner() -> None:
    assert users_of("deepspeed") == {"orchestrator/training/engine.py"}
    assert users_of("ray.train") == {"orchestrator/on_ray/placement.py", "orchestrator/on_ray/shell.py"}
    assert all(name.startswith("data_pipeline/") for name in users_of("boto3") | users_of("botocore"))
    assert all(name.startswith("data_pipeline/") for name in users_of("webdataset"))
    assert users_of("triton") == {"mixer_model/kernels/on_cuda.py"}
    assert users_of("onnxruntime") == {"mixer_model/interop/onnx.py"}
    assert users_of("tensorboardX") == {"orchestrator/tensorboard.py"}
    assert all(name.startswith(("clusters/", "orchestrator/on_ray/")) for name in users_of("ray"))


def test_training_and_supervisor_meet_only_in_the_bucket() -> None:
    for path in FILES:
        name, imported = str(path.relative_to(ROOT)), imports_of(path)
        if name.startswith("orchestrator/training/"):
            assert not {
                i
                for i in imported
                if i.startswith(("orchestrator.leading", "orchestrator.on_ray", "clusters"))
            }, name
        if name.startswith("orchestrator/leading/"):
            assert not {
                i for i in imported if i.startswith(("orchestrator.training", "orchestrator.on_ray"))
            }, name


def test_the_model_knows_torch_and_nothing_of_the_rest() -> None:
    foreign = {
        name.split(".")[0]
        for path in FILES
        if path.is_relative_to(ROOT / "mixer_model")
        for name in imports_of(path)
    }
    assert foreign - set(sys.stdlib_module_names) <= {
        "torch",
        "numpy",
        "safetensors",
        "triton",
        "onnxruntime",
        "matplotlib",
        "PIL",
        "mixer_model",
        "",
    }


def test_no_circles_between_modules() -> None:
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES}
    arrows = {
        name: {i for i in _top_imports(path) if i in names and i != name} for name, path in names.items()
    }
    done: set[str] = set()

    def walk(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"import circle: {' -> '.join([*trail[trail.index(name) :], name])}"
        if name in done:
            return
        for target in arrows[name]:
            walk(target, (*trail, name))
        done.add(name)

    for name in names:
        walk(name, ())


def _top_imports(path: Path) -> set[str]:
    """Imports at module level, type-checking blocks left out."""
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    copy = ast.unparse(tree)
    package = ".".join(path.relative_to(ROOT).with_suffix("").parts[:-1])
    found: set[str] = set()
    for node in ast.walk(ast.parse(copy)):
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


BAD_SPEC = """
name: x
model: {preset: S/32, clases: 10}
data: {train: /d}
train: {global_batch: 8, micro_batch: 2, steps: 1}
workers: {max: 2}
"""
PROBE = """
import sys
from orchestrator import cli
sys.argv = ["mixer", *{args!r}]
try:
    cli.main()
except SystemExit as done:
    code = done.code
heavy = sorted({{name.split(".")[0] for name in sys.modules}} & {{"torch", "ray", "deepspeed", "webdataset", "matplotlib", "sklearn"}})
print("HEAVY", heavy, "CODE", code)
"""


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["--help"], 0),
        (["train", "--help"], 0),
        (["train", "SPEC"], 2),
        (["status", "none", "--store", "FOLDER"], 2),
        (["recipes"], 0),
        (["recipes", "in1k-b"], 0),
    ],
    ids=["help", "train-help", "spec-error", "no-run", "recipes", "recipe"],
)
def test_the_face_stays_light(args: list[str], code: int, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(BAD_SPEC)
    real = [{"SPEC": str(tmp_path / "bad.yaml"), "FOLDER": str(tmp_path)}.get(arg, arg) for arg in args]
    run = subprocess.run(
        [sys.executable, "-c", PROBE.format(args=real)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=False,
    )
    assert f"HEAVY [] CODE {code}" in run.stdout, run.stdout + run.stderr
    if code == 2 and "SPEC" in args:
        assert "model.clases: unknown key; did you mean classes?" in run.stderr


def test_every_module_says_what_it_is_for() -> None:
    for path in FILES:
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path.relative_to(ROOT)} has no docstring"


def test_nothing_is_slow_about_asking_for_help() -> None:
    """Not a time limit, a bound on what is loaded: the face imports fewer than 1,200 modules."""
    probe = "import sys; from orchestrator import cli; print(len(sys.modules))"
    began = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, timeout=60, cwd=ROOT, check=True
    )
    assert int(run.stdout) < 1200, f"{run.stdout} modules in {time.monotonic() - began:.2f} s"
