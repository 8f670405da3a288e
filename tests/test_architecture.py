"""The architecture: files are short and import only from lower levels, torch.export is named once, extras stay outside."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import relprop

SRC = Path(relprop.__file__).parent
FILES = sorted(SRC.rglob("*.py"))

# From low to high. A level may need an order within itself: its parts follow each other here, and a unit (a file, or a
# folder with all its files) imports only units of earlier lines.
LEVELS = (
    {"errors", "turns", "values", "version"},  # 0
    {"targets", "show", "zoo", "evaluate", "forecast", "spectral"},  # leaves, beside the levels: errors only
    {"adjoints", "pooling", "recurrence"},  # 1
    {"ops"},
    {"gates", "samples"},
    {"graph", "rules"},  # 2
    {"captured", "choice", "constants", "functional"},  # 3
    {"guards", "mixing", "placed"},
    {"capture"},
    {"canonize", "composites"},
    {"ready"},
    {"program"},  # 4
    {"explanation", "report", "pieces", "memory", "neon"},  # 5
    {"chunks"},
    {"execution"},
    {"prepared"},
    {"api"},
    {"testing", "theory", "language", "profiling"},
    {"bilrp", "integrations", "jobs"},  # 6
    {"reproduce", "coverage"},
    {"_loading", "_tables"},  # 7, private to the command
    {"_reproduce", "_coverage", "_profile"},
    {"cli", "web"},
)
LEAVES = LEVELS[1]
# `targets` is part of the mathematics, so everything may use it; the other leaves serve level 5 and above alone.
ABOVE = next(i for i, units in enumerate(LEVELS) if "explanation" in units)
HEAVY = {
    "matplotlib", "numpy", "PIL", "typer", "rich", "torchvision", "safetensors", "sklearn", "timm", "scipy", "zennit", "pandas",
    "pyarrow", "transformers", "tokenizers",
}  # fmt: skip


def unit(module: str) -> str:
    """`relprop.rules.affine` belongs to `rules`; `relprop` itself is ''."""
    return module.split(".")[1] if "." in module else ""


def module_name(file: Path) -> str:
    parts = ("relprop", *file.relative_to(SRC).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything of relprop a file imports, inside functions too."""
    package = module_name(file) if file.name == "__init__.py" else module_name(file).rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, a.name) for a in node.names if a.name.split(".")[0] == "relprop")
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            if source.split(".")[0] == "relprop":
                # `from . import rules` names units, `from .rules import affine` a part of one
                yield from ((node.lineno, f"{source}.{a.name}" if source == "relprop" else source) for a in node.names)


def level(name: str) -> int:
    found = [i for i, units in enumerate(LEVELS) if name in units]
    if len(found) != 1:
        raise AssertionError(f"relprop.{name} has no level: give it one in design.md and here")
    return found[0]


def test_every_file_has_a_level() -> None:
    assert all(level(unit(module_name(f))) >= 0 for f in FILES if unit(module_name(f)))


@pytest.mark.parametrize("file", [f for f in FILES if f != SRC / "__init__.py"], ids=lambda f: str(f.relative_to(SRC)))
def test_imports_point_downward(file: Path) -> None:
    own = unit(module_name(file))
    wrong = []
    for line, name in imports(file):
        other = unit(name)
        if other == own:
            continue  # inside a folder
        leaf = other in LEAVES - {"targets"}
        allowed = bool(other) and level(other) < level(own) and not (leaf and level(own) < ABOVE)
        if not allowed:
            wrong.append(f"{file.name}:{line} imports {name}")
    assert not wrong


def test_a_folder_has_no_circular_imports() -> None:
    for folder in {f.parent for f in FILES} - {SRC}:
        needs = {
            f.stem: {n.removeprefix(module_name(folder / "__init__.py") + ".") for _, n in imports(f)}
            for f in folder.glob("*.py") if f.name != "__init__.py"
        }  # fmt: skip
        needs = {k: v & needs.keys() for k, v in needs.items()}
        while needs:
            free = {k for k, v in needs.items() if not v & needs.keys()}
            assert free, f"{folder.name}: {sorted(needs)} import each other"
            needs = {k: v for k, v in needs.items() if k not in free}


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(SRC)))
def test_a_file_is_short(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) < 400


def test_only_capture_names_torch_export() -> None:
    naming = re.compile(r"torch\.export|torch import export|torch\._export")
    for file in FILES:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        docs = {id(d) for n in ast.walk(tree) if (d := docstring(n)) is not None}
        names = [ast.unparse(n) for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom, ast.Attribute))]
        constants = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in docs]
        if any(naming.search(x) for x in names + [c for c in constants if isinstance(c, str)]):
            assert file == SRC / "capture.py"


def docstring(node: ast.AST) -> ast.Constant | None:
    body = getattr(node, "body", None)
    first = body[0] if isinstance(body, list) and body else None
    value = first.value if isinstance(first, ast.Expr) else None
    return value if isinstance(value, ast.Constant) else None


def test_rules_know_no_graph_and_program_no_op() -> None:
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        if unit(module_name(file)) == "rules":
            assert "fx" not in re.findall(r"\w+", text)
        if unit(module_name(file)) == "program":
            assert not set(re.findall(r"aten\.(\w+)", text)) - {"add", "_ops"}  # relevance is added up


def test_importing_relprop_needs_torch_alone() -> None:
    """torch.export comes with numpy where that is installed; nothing else may come."""
    program = (
        "import sys, torch, torch.export; before = set(sys.modules); import relprop; "
        "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    env = {**os.environ, "PYTHONPATH": str(SRC.parent)}
    out = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True).stdout
    loaded = set(out.split())
    assert "relprop" in loaded
    assert not loaded & HEAVY
    third_party = {m for m in loaded if not m.startswith("_")} - sys.stdlib_module_names - {"relprop", "torch"}
    assert not third_party
