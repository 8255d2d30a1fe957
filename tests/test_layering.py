"""Which module may import which: read from the source, so that a wrong import fails even where it is never executed."""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "flash_kmeans_mlx"
KERNELS, BENCHMARK = f"{PACKAGE}.kernels", f"{PACKAGE}.benchmark"
FOLDERS = {PACKAGE: ROOT / PACKAGE, KERNELS: ROOT / "kernels", BENCHMARK: ROOT / "benchmark"}
# Lowest first. A layer imports from those below it; the modules of the first one, and those of one
# folder, from one another as well. A new module needs a place here.
LAYERS = (
    {"_fork", "errors", "files", "frame", "metrics", "progress", "validation"},
    {"shards"},
    {"backends"},
    {"distributed"},
    {"kmeans", "neighbours"},
    {"index", "sklearn"},
    {""},
    {"cli"},
)


def modules() -> dict[str, Path]:
    found = {}
    for package, folder in FOLDERS.items():
        for path in folder.rglob("*.py"):
            name = ".".join([package, *path.relative_to(folder).with_suffix("").parts])
            found[name.removesuffix(".__init__")] = path
    return found


def imports(source: str, module: str, is_package: bool) -> Iterator[str]:
    """Return the full dotted names that the source imports, in functions and for types too, and those that it names in strings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[
                : None if is_package and node.level == 1 else is_package - node.level
            ]
            base = [
                *(parents if node.level else []),
                *(node.module.split(".") if node.module else []),
            ]
            yield from (".".join([*base, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Constant) and re.fullmatch(
            rf"{PACKAGE}(\.\w+)*\.?", str(node.value)
        ):
            yield str(node.value).rstrip(".")


def layer(module: str) -> int:
    top = module.removeprefix(PACKAGE).lstrip(".").split(".")[0]
    found = [rank for rank, names in enumerate(LAYERS) if top in names]
    assert found, (
        f"{module} has no place in LAYERS of {Path(__file__).name}: add it to the layer that it belongs to"
    )
    return found[0]


def wrong_import(module: str, target: str) -> str | None:
    """Return why `module` must not import `target`, both of this project."""

    def within(name: str, package: str) -> bool:
        return name == package or name.startswith(package + ".")

    if within(module, BENCHMARK):
        return None if not within(target, KERNELS) else "the benchmark uses the public interface"
    if within(target, BENCHMARK):
        return (
            None
            if within(module, f"{PACKAGE}.cli")
            else "only the command line imports the benchmark"
        )
    if within(module, KERNELS):
        return None if within(target, KERNELS) else "kernels import kernels only"
    if within(target, KERNELS):
        return None if within(module, f"{PACKAGE}.backends") else "only backends import kernels"
    below = layer(target) < layer(module)
    beside = layer(target) == layer(module) and (
        layer(module) == 0 or module.split(".")[1] == target.split(".")[1]
    )
    return None if below or beside else "imports point to lower layers only"


def graph() -> dict[str, set[str]]:
    known = modules()

    def owner(name: str) -> str:
        return name if name in known or "." not in name else owner(name.rpartition(".")[0])

    edges: dict[str, set[str]] = {}
    for module, path in known.items():
        targets = {
            owner(name) for name in imports(path.read_text(), module, path.name == "__init__.py")
        }
        edges[module] = (targets & known.keys()) - {module}
    return edges


def forbidden_handlers(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler):
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            caught = [ast.unparse(kind) for kind in kinds if kind]
            silent = all(isinstance(line, ast.Pass) for line in node.body)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "suppress",
            "contextlib.suppress",
        ):
            caught, silent = [ast.unparse(kind) for kind in node.args], True
        else:
            continue
        swallows_import = silent and {"ImportError", "ModuleNotFoundError"} & set(caught)
        if not caught or "Exception" in caught or swallows_import:
            found.append(f"line {node.lineno}: {ast.unparse(node).splitlines()[0]}")
    return found


def test_imports_point_downwards() -> None:
    edges = graph()
    assert edges[f"{PACKAGE}.kmeans.lloyd"], "the graph is empty: the imports were not understood"
    wrong = [
        f"{module} -> {target}: {why}"
        for module, targets in edges.items()
        for target in sorted(targets)
        if (why := wrong_import(module, target))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_import_cycles() -> None:
    list(TopologicalSorter(graph()).static_order())


@pytest.mark.parametrize(
    "path", [pytest.param(p, id=name) for name, p in sorted(modules().items())]
)
def test_no_handler_hides_an_error(path: Path) -> None:
    assert forbidden_handlers(path.read_text()) == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("import numpy.linalg", "numpy.linalg"),
        ("from . import metrics", "flash_kmeans_mlx.backends.metrics"),
        ("from .. import metrics", "flash_kmeans_mlx.metrics"),
        ("from ..metrics import Metric", "flash_kmeans_mlx.metrics.Metric"),
        ("def f():\n  from .points import Points", "flash_kmeans_mlx.backends.points.Points"),
        ("import_module(f'flash_kmeans_mlx.kernels.cpu.{name}')", "flash_kmeans_mlx.kernels.cpu"),
    ],
)
def test_imports_are_found(line: str, expected: str) -> None:
    assert list(imports(line, f"{PACKAGE}.backends.portable", is_package=False)) == [expected]


def test_imports_for_types_count_too() -> None:
    lines = "if TYPE_CHECKING:\n  from ...kmeans.lloyd import Fit\nelse:\n  import numpy"
    found = imports(lines, f"{PACKAGE}.backends.cpu.points", is_package=False)
    assert sorted(found) == [f"{PACKAGE}.kmeans.lloyd.Fit", "numpy"]


def test_imports_of_a_package_are_found() -> None:
    lines = "from .points import Points\nfrom ..errors import NotFittedError"
    assert list(imports(lines, f"{PACKAGE}.backends", is_package=True)) == [
        f"{PACKAGE}.backends.points.Points",
        f"{PACKAGE}.errors.NotFittedError",
    ]


@pytest.mark.parametrize(
    ("module", "target", "allowed"),
    [
        ("kmeans.lloyd", "backends.points", True),
        ("backends.cpu.points", "backends.points", True),
        ("validation", "metrics", True),
        ("backends.cpu", "kernels.cpu.tile", True),
        ("kernels.cpu.tile", "kernels.cpu.rows", True),
        ("benchmark.runner", "kmeans.api", True),
        ("cli.commands", "benchmark.__main__", True),
        ("files.flat", "files.atomic", True),
        ("neighbours.files", "files", True),
        ("index.ivf", "neighbours.api", True),
        ("metrics", "backends", False),
        ("backends.cpu", "kmeans.lloyd", False),
        ("kmeans.api", "neighbours.api", False),
        ("kmeans.lloyd", "kernels.cpu.tile", False),
        ("kernels.cpu.tile", "metrics", False),
        ("benchmark.runner", "kernels.cpu.tile", False),
        ("kmeans.api", "benchmark.cases", False),
        ("files.flat", "neighbours.files", False),
        ("neighbours.api", "index.flat", False),
        ("index.flat", "sklearn.kmeans", False),
    ],
)
def test_the_rules(module: str, target: str, allowed: bool) -> None:
    assert (wrong_import(f"{PACKAGE}.{module}", f"{PACKAGE}.{target}") is None) == allowed


@pytest.mark.parametrize(
    ("handler", "forbidden"),
    [
        ("except: raise", True),
        ("except Exception as e: log(e)", True),
        ("except (OSError, Exception): raise", True),
        ("except ImportError: pass", True),
        ("except ImportError: found = False", False),
        ("except OSError: pass", False),
    ],
)
def test_handlers_are_judged(handler: str, forbidden: bool) -> None:
    assert bool(forbidden_handlers(f"try: f()\n{handler}")) == forbidden


def test_suppress_is_judged() -> None:
    assert forbidden_handlers("with suppress(ImportError): import x") and not forbidden_handlers(
        "with suppress(OSError): f()"
    )
