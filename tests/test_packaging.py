"""The ways to get weightspace: wheel, source archive, editable install and bare checkout, beside a user's own modules."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
WINGS = ("zoo", "metanets", "analysis")
SETUPTOOLS: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


@dataclass(frozen=True)
class Environment:
    """A fresh virtual environment that sees this one's dependencies, but not its weightspace."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> "Environment":
        run([sys.executable, "-m", "venv", "--without-pip", folder])
        made = cls(folder)
        site = Path(run([made.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
        # A path file inside a folder that another path file names is not read: the editable install stays out of sight.
        (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
        return made

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def install(self, archive: Path) -> None:
        pip: list[str | Path] = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            self.python,
            "install",
            "--quiet",
            "--no-index",
            "--no-deps",
            "--no-build-isolation",
        ]
        run([*pip, archive])


def run(command: Sequence[str | Path], folder: Path | None = None, **variables: str) -> str:
    """Run a command with nothing of this checkout on its paths; returns what it printed."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "WEIGHTSPACE_ZOO")}
    done = subprocess.run(
        command, cwd=folder or Path.home(), env={**kept, **variables}, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, f"{command} exited {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of this working tree that a clone would have, links kept as links."""
    folder = tmp_path_factory.mktemp("clone") / "weightspace"
    folder.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "weightspace", *WINGS):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        else:
            shutil.copy(source, folder / name)
    return folder


@pytest.fixture(scope="module")
def archives(checkout: Path) -> Path:
    """A source archive, and a wheel built from it."""
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", checkout.parent / "dist", checkout])
    return checkout.parent / "dist"


@pytest.fixture(scope="module")
def installed(archives: Path) -> Environment:
    """An environment with the wheel in it."""
    environment = Environment.make(archives.parent / "installed")
    [wheel] = archives.glob("*.whl")
    environment.install(wheel)
    return environment


def packages_on_disk() -> set[str]:
    """Every package by its import name, found through the links as a type checker finds it."""
    found = set()
    for folder, below, files in os.walk(ROOT / "weightspace", followlinks=True):
        below[:] = [name for name in below if name != "__pycache__"]
        if any(file.endswith(".py") for file in files):
            found.add(".".join(Path(folder).relative_to(ROOT).parts))
    return found


def test_pyproject_names_every_package_on_disk_and_no_other() -> None:
    assert set(SETUPTOOLS["packages"]) == packages_on_disk()


def test_every_package_has_its_init_file() -> None:
    assert [name for name in packages_on_disk() if not (ROOT / name.replace(".", "/") / "__init__.py").is_file()] == []


@pytest.mark.parametrize("wing", WINGS)
def test_link_mapping_and_folder_of_a_wing_agree(wing: str) -> None:
    link = ROOT / "weightspace" / wing
    assert link.is_symlink() and link.readlink() == Path("..") / wing
    assert SETUPTOOLS["package-dir"][f"weightspace.{wing}"] == wing
    assert (ROOT / wing / "__init__.py").is_file()


@pytest.mark.slow
class TestArchives:
    """What setuptools builds of the tree."""

    def test_wheel_holds_every_package_once_under_its_import_name(self, archives: Path) -> None:
        [wheel] = archives.glob("*.whl")
        names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
        assert {str(Path(name).parent).replace("/", ".") for name in names} == packages_on_disk()
        assert {"weightspace/py.typed", "weightspace/zoo/schema.sql"} <= set(names)
        assert len(names) == len(set(names))

    def test_source_archive_holds_the_folders(self, archives: Path) -> None:
        [archive] = archives.glob("*.tar.gz")
        names = {name.partition("/")[2] for name in tarfile.open(archive).getnames()}
        wanted = {"LICENSE", "README.md", "pyproject.toml", "zoo/schema.sql", "weightspace/py.typed", "weightspace/checkpoint.py"}
        assert wanted | {f"{wing}/__init__.py" for wing in WINGS} <= names

    def test_source_archive_installs(self, archives: Path) -> None:
        environment = Environment.make(archives.parent / "from source")
        [archive] = archives.glob("*.tar.gz")
        environment.install(archive)
        assert "schema.sql" in run([environment.python, "-c", PRINT_SCHEMA])

    def test_editable_install_sees_new_files(self, checkout: Path, tmp_path: Path) -> None:
        copy = shutil.copytree(checkout, tmp_path / "copy", symlinks=True)
        environment = Environment.make(tmp_path / "editable")
        pip: list[str | Path] = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            environment.python,
            "install",
            "--quiet",
            "--no-index",
            "--no-deps",
        ]
        run([*pip, "--no-build-isolation", "--editable", copy])
        (copy / "analysis" / "brand_new.py").write_text("answer = 42\n")
        assert run([environment.python, "-c", "import weightspace.analysis.brand_new as new; print(new.answer)"]).strip() == "42"


PRINT_SCHEMA = "import importlib.resources as r; print([f.name for f in r.files('weightspace.zoo').iterdir()])"


@pytest.mark.slow
class TestInstalled:
    """What a user has after `pip install`."""

    def test_package_comes_from_the_environment(self, installed: Environment) -> None:
        place = run([installed.python, "-c", "import weightspace.zoo; print(weightspace.zoo.__file__)"]).strip()
        assert Path(place).is_relative_to(installed.folder)

    def test_schema_is_there(self, installed: Environment) -> None:
        assert "schema.sql" in run([installed.python, "-c", PRINT_SCHEMA])

    def test_command_line_answers(self, installed: Environment) -> None:
        assert "ingest" in run([installed.folder / "bin" / "weightspace", "--help"])

    @pytest.mark.parametrize("wing", WINGS)
    def test_wings_take_no_name_of_their_own(self, installed: Environment, wing: str) -> None:
        found = run([installed.python, "-c", f"import importlib.util as u; print(u.find_spec({wing!r}))"], Path("/"))
        assert found.strip() == "None"

    def test_a_users_own_modules_of_the_same_names_break_nothing(self, installed: Environment, tmp_path: Path) -> None:
        assert run([installed.python, own_modules(tmp_path)], tmp_path).split() == ["my-zoo", "my-analysis", "Zoo", "1"]


@pytest.mark.slow
class TestBareCheckout:
    """A clone without an install, the root on PYTHONPATH."""

    def test_everything_is_imported_from_the_clone(self, checkout: Path, tmp_path: Path) -> None:
        environment = Environment.make(tmp_path / "bare")
        show = "import weightspace.zoo.records, weightspace.analysis; print(weightspace.zoo.records.__file__)"
        place = run([environment.python, "-c", show], PYTHONPATH=os.fspath(checkout)).strip()
        assert Path(place).is_relative_to(checkout)

    def test_weightspace_is_absent_without_the_path(self, tmp_path: Path) -> None:
        environment = Environment.make(tmp_path / "bare")
        assert run([environment.python, "-c", "import importlib.util as u; print(u.find_spec('weightspace'))"]).strip() == "None"


def own_modules(folder: Path) -> Path:
    """A user's script beside modules that are named like our folders."""
    (folder / "zoo.py").write_text("name = 'my-zoo'\n")
    (folder / "analysis.py").write_text("name = 'my-analysis'\n")
    script = folder / "script.py"
    script.write_text(
        "import analysis, zoo\n"
        "import numpy as np\n"
        "from safetensors.numpy import save_file\n"
        "from weightspace.zoo import Zoo\n"
        "import weightspace.analysis\n"
        "save_file({'w': np.ones(3, np.float32)}, 'model.safetensors')\n"
        "mine = Zoo('.')\n"
        "mine.ingest('model.safetensors', jobs=1)\n"
        "print(zoo.name, analysis.name, Zoo.__name__, mine.models().num_rows)\n"
    )
    return script


def test_a_users_own_modules_break_nothing_beside_the_editable_install(tmp_path: Path) -> None:
    assert run([sys.executable, own_modules(tmp_path)], tmp_path).split() == ["my-zoo", "my-analysis", "Zoo", "1"]
