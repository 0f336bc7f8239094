"""What is built from the checkout is complete, says what it is, and stands alone; what it imports, and in which direction."""

import ast
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import build
import pytest

import keras_reg

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "keras_reg").rglob("*.py"))
NO_SOURCES = (".*", "__pycache__", "*.egg-info", "build", "dist")

ALWAYS = {"keras", "keras_reg", "numpy", *sys.stdlib_module_names}
"""What a module may import when it is itself imported."""
WHERE_USED = {"jax", "keras_hub", "matplotlib", "rich", "scipy", "sklearn", "tensorboard", "tensorflow", "torch"}
"""What it may import inside a function as well."""
FLOORS = (
    {"_keras", "_loading", "_registration", "_validation", "_version"},
    {"backend"},
    {"_labels", "ops", "weights"},
    {"contract", "running", "strength_variable"},
    {"notes"},
    {"binding"},
    {"regularizers"},
    {"layers", "losses", "metrics", "optimizers", "testing"},
    {"models"},
    {"callbacks"},
    {"visualization"},
    {"selection"},
)
"""A namespace imports from the floors below its own, and from itself."""


def run(*command, **kwargs):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300, **kwargs)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy: building leaves files beside the sources."""
    return shutil.copytree(ROOT, tmp_path_factory.mktemp("checkout") / "keras_reg", ignore=shutil.ignore_patterns(*NO_SOURCES))


@pytest.fixture(scope="module")
def can_build_here(checkout):
    """Whether this environment has what building needs, so that nothing has to be fetched."""
    needed = build.ProjectBuilder(checkout).build_system_requires
    return not any(missing for requirement in needed for missing in build.check_dependency(requirement))


@pytest.fixture(scope="module")
def archives(checkout, can_build_here, tmp_path_factory):
    """The sdist, and the wheel that `build` makes from it."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", *["--no-isolation"] * can_build_here, "--outdir", out, checkout)
    return {"wheel": next(out.glob("*.whl")), "sdist": next(out.glob("*.tar.gz"))}


@pytest.fixture(scope="module", params=["wheel", "sdist"])
def site(request, archives, can_build_here, tmp_path_factory):
    """An empty directory that one of them was installed into."""
    target = tmp_path_factory.mktemp(request.param)
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", *["--no-build-isolation"] * can_build_here]
    run(sys.executable, "-m", "pip", "install", *options, "--target", target, archives[request.param])
    return target


def package_files(checkout):
    return {path.relative_to(checkout).as_posix() for path in (checkout / "keras_reg").rglob("*") if path.is_file()}


def test_the_wheel_holds_the_package_and_nothing_else(checkout, archives):
    names = zipfile.ZipFile(archives["wheel"]).namelist()
    assert {name for name in names if ".dist-info/" not in name} == package_files(checkout)
    assert {"keras_reg/py.typed", "keras_reg/CHANGELOG.md", "keras_reg/__init__.py"} <= set(names)
    assert [name for name in names if name.endswith("/LICENSE")]


def test_the_sdist_holds_the_package_and_what_builds_it(checkout, archives):
    with tarfile.open(archives["sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert package_files(checkout) | {"LICENSE", "README.md", "pyproject.toml"} <= names
    assert not [name for name in names if name.startswith("benchmarks")]


def test_metadata(site, checkout):
    (distribution,) = metadata.distributions(path=[str(site)])
    about = distribution.metadata
    assert about["Name"] == "keras-reg"
    assert distribution.version == keras_reg.__version__
    assert about["Requires-Python"] == ">=3.10"
    assert about["License-Expression"] == "Apache-2.0"
    assert about.get_payload().strip() == (checkout / "README.md").read_text(encoding="utf-8").strip()
    needed = {name.partition(">")[0] for name in distribution.requires if "extra ==" not in name}
    assert needed == {"keras", "numpy", "rich", "tensorboard", "tensorflow"}
    assert set(about.get_all("Provides-Extra")) == {"all-backends", "docs", "examples", "jax", "test", "torch"}


def test_what_is_installed_imports_from_elsewhere(site, checkout, tmp_path):
    script = (
        "import importlib, pkgutil, keras_reg\n"
        "modules = [m.name for m in pkgutil.walk_packages(keras_reg.__path__, 'keras_reg.')]\n"
        "others = [f'keras_reg.backend.{name}' for name in ('jax', 'tensorflow', 'torch')]\n"
        "for name in modules: name in others or importlib.import_module(name)\n"
        "print(keras_reg.__file__, keras_reg.__version__, len(modules))"
    )
    printed = run(sys.executable, "-c", script, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)})
    modules = sum(name.endswith(".py") for name in package_files(checkout)) - 1
    assert printed.split() == [str(site / "keras_reg" / "__init__.py"), keras_reg.__version__, str(modules)]


def imports(tree, in_function=False):
    """The dotted names that a module imports, each with whether a function does it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, in_function) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            yield from ((f"{node.module}.{alias.name}", in_function) for alias in node.names)
        for_types = isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        yield from imports(node, in_function or for_types or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))


def floor(namespace):
    (level,) = [level for level, names in enumerate(FLOORS) if namespace in names]
    return level


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports(path):
    namespace = path.relative_to(ROOT / "keras_reg").parts[0].removesuffix(".py")
    for name, in_function in imports(ast.parse(path.read_text(encoding="utf-8"))):
        package, inner = name.split(".")[0], name.split(".")[1:2]
        # The modules named after a backend are imported where it is the backend.
        allowed = ALWAYS | ({path.stem.split("_")[0]} if namespace == "backend" else set()) | (WHERE_USED if in_function else set())
        assert package in allowed, f"{name} is imported {'late' if in_function else 'at once'}"
        if package == "keras_reg" and namespace != "__init__" and inner != [namespace]:
            assert inner, f"{namespace} imports keras_reg as a whole"
            assert floor(inner[0]) < floor(namespace), f"{namespace} imports {name}, which is not below it"
