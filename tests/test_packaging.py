import fnmatch
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import tomli

import flash_kmeans_mlx

ROOT = Path(__file__).parents[1]
PYPROJECT: dict[str, Any] = tomli.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
TOP = {ROOT / folder: package for package, folder in SETUPTOOLS["package-dir"].items()}


def shipped_files() -> dict[Path, str]:
    """Return each file below a packaged folder, with its path inside a wheel."""
    found = {}
    for folder, package in TOP.items():
        for path in folder.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                found[path] = "/".join([*package.split("."), *path.relative_to(folder).parts])
    return found


def test_every_folder_with_python_is_a_listed_package() -> None:
    folders = {
        inside.rpartition("/")[0].replace("/", ".")
        for path, inside in shipped_files().items()
        if path.suffix == ".py"
    }
    assert sorted(folders) == sorted(SETUPTOOLS["packages"])
    inits = {inside for inside in shipped_files().values() if inside.endswith("/__init__.py")}
    assert inits == {
        package.replace(".", "/") + "/__init__.py" for package in SETUPTOOLS["packages"]
    }


def test_package_data_covers_every_other_file() -> None:
    patterns = [
        package.replace(".", "/") + "/" + pattern
        for package, names in SETUPTOOLS["package-data"].items()
        for pattern in names
    ]
    others = [inside for path, inside in shipped_files().items() if path.suffix != ".py"]
    assert [
        inside for inside in others if not any(matches(inside, pattern) for pattern in patterns)
    ] == []


def matches(path: str, pattern: str) -> bool:
    # As in a shell and unlike plain fnmatch, a star does not cross a slash.
    parts, wanted = path.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


def test_a_star_does_not_cross_a_slash() -> None:
    assert matches("kernels/metal/assign.metal", "kernels/*/*.metal") and not matches(
        "kernels/metal/a.metal", "kernels/*.metal"
    )


def test_the_version_stands_in_one_place() -> None:
    number = PYPROJECT["project"]["version"]
    assert flash_kmeans_mlx.__version__ == version("flash-kmeans-mlx") == number, (
        "install the package again"
    )
    literal = re.compile(rf"version\w*\W+{re.escape(number)}\b", re.IGNORECASE)
    sources = [path for path in shipped_files() if path.suffix == ".py"]
    assert [path.name for path in sources if literal.search(path.read_text())] == []


def test_kernels_are_resources() -> None:
    for path, inside in shipped_files().items():
        if path.is_relative_to(ROOT / "kernels"):
            relative = inside.removeprefix("flash_kmeans_mlx/kernels/")
            assert (
                files("flash_kmeans_mlx.kernels").joinpath(relative).read_bytes()
                == path.read_bytes()
            )


def test_python_versions_agree() -> None:
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(PYPROJECT["project"]["classifiers"]))
    assert PYPROJECT["project"]["requires-python"] == f">={named[0]}"
    assert PYPROJECT["tool"]["pyright"]["pythonVersion"] == named[0]
    assert PYPROJECT["tool"]["ruff"]["target-version"] == "py" + named[0].replace(".", "")


@pytest.mark.parametrize("name", ["benchmark", "tests"])
def test_readme_has_the_commands_that_ci_runs(name: str) -> None:
    readme = (ROOT / "README.md").read_text()
    assert (
        len(
            re.findall(
                rf"^<!-- command: {name} -->\n```bash\n(?:(?!```).+\n)+```$", readme, re.MULTILINE
            )
        )
        == 1
    )


def test_the_wheel_holds_every_file(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for folder in TOP:
        shutil.copytree(
            folder, tree / folder.relative_to(ROOT), ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(tree),
    ]
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == set(shipped_files().values())
    assert re.fullmatch(r"flash_kmeans_mlx-[\d.]+-py3-none-any\.whl", wheel.name)
