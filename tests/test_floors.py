"""Who may import whom: dependencies run one way, downwards (CONTRIBUTING.md)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# The longest matching prefix decides.
FLOORS = {
    "alignment": 0,
    "alignment.records": 0,
    "alignment.config": 0,
    "alignment.errors": 0,
    "alignment.files": 0,
    "alignment.progress": 0,
    "alignment.processes": 0,
    "alignment.feedback": 1,
    "alignment.models": 2,
    "alignment.sampling": 3,
    "alignment.training": 3,
    "alignment.evaluation": 3,
    "alignment.workspace": 4,
    "alignment.pipeline": 4,
    "alignment.labelling": 4,
    "alignment.exchange": 4,
    "alignment.hub_rows": 4,
    "alignment.demo_base": 4,
    "alignment.control": 4,
    "alignment.comparing": 4,
    "alignment.demo": 4,
    "alignment.planning": 4,
    "alignment.planner": 4,
    "alignment.run_plan": 4,
    "alignment.run_data": 4,
    "alignment.run_folders": 4,
    "alignment.exporting": 4,
    "alignment.cli_plan": 5,
    "alignment.evaluation_stage": 4,
    "alignment.review_stage": 4,
    "alignment.cli": 5,
    "alignment.cli_evaluate": 5,
    "alignment.cli_people": 5,
    "alignment.cli_runs": 5,
    "alignment.cli_run_views": 5,
    "alignment.cli_shared": 5,
    "alignment.cli_known_orders": 5,
    "ui": 5,
}
HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "accelerate"}


def sources():
    return sorted([*ROOT.glob("alignment/**/*.py"), *ROOT.glob("ui/**/*.py")])


def module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor_of(module: str) -> int:
    known = [name for name in FLOORS if module == name or module.startswith(f"{name}.")]
    assert known, f"{module} has no floor: add it to FLOORS"
    return FLOORS[max(known, key=len)]


def imports(path: Path, *, top_only: bool = False) -> set[str]:
    """Modules that a file imports, as dotted names; `from a import b` gives both a and a.b."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_only else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def is_ours(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return name.split(".")[0] in ("alignment", "ui") and (
        path.is_dir() or path.with_suffix(".py").exists()
    )


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_no_arrow_runs_up(path):
    mine = module_name(path)
    for name in imports(path):
        if is_ours(name) and name not in ("alignment", "ui"):
            assert floor_of(name) <= floor_of(mine), f"{mine} imports {name}, which lies above it"


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_the_feedback_floor_and_the_screens_are_free_of_torch(path):
    module = module_name(path)
    if floor_of(module) <= 1 or floor_of(module) == 5:
        heavy = {name.split(".")[0] for name in imports(path)} & HEAVY
        assert not heavy, f"{module} imports {heavy}"


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_the_model_side_never_touches_the_store(path):
    module = module_name(path)
    if floor_of(module) in (2, 3):
        stores = {name for name in imports(path) if name.startswith("alignment.feedback")}
        assert not stores, (
            f"{module} imports {stores}: floors 2 and 3 know nothing of the feedback side"
        )


def test_the_check_would_notice_an_arrow_that_runs_up(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text("def f():\n    from alignment import pipeline\n")
    assert "alignment.pipeline" in imports(wrong)
    assert floor_of("alignment.pipeline") > floor_of("alignment.feedback.store")
