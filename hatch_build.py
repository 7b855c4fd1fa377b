"""What is made when a wheel is built: compiled kernels, where there is a C compiler, and a manual page."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

REQUIRED = "CKPTCLAMP_REQUIRE_KERNELS"
"""Set where wheels are made for others: a failure to compile is then one of the build."""

NATIVE = Path("ckptclamp", "engine", "kernels", "native")
PAGE = "ckptclamp.1"


class WheelHook(BuildHookInterface[Any]):
    """Adds to a wheel what is made of sources; an editable install has its kernels in the tree."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """See `BuildHookInterface`."""
        made = Path(self.root, "build")  # what lies beside a wheel would be published with it
        made.mkdir(parents=True, exist_ok=True)
        if version == "editable":
            self._kernels(Path(self.root, NATIVE))
            return
        library = self._kernels(made)
        if library is not None:
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform}"
            build_data["force_include"][str(library)] = str(NATIVE / "lib" / library.name)
        page = made / PAGE
        page.write_text(self._man_page(), "utf-8")
        build_data["shared_data"][str(page)] = f"share/man/man1/{PAGE}"

    def _kernels(self, folder: Path) -> Path | None:
        """Compile the kernels into `folder`, or say why not: without them the wheel is pure."""
        builder = runpy.run_path(str(Path(self.root, NATIVE, "build.py")))
        try:
            library: Path = builder["build"](folder / builder["LIBRARY"])
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            if os.environ.get(REQUIRED):
                raise
            self.app.display_warning(f"no compiled kernels, NumPy does their work: {error}")
            return None
        return library

    def _man_page(self) -> str:
        sys.path.insert(0, self.root)
        from ckptclamp import __version__
        from ckptclamp.cli import cli

        page: str = runpy.run_path(str(Path(self.root, "ci", "man_page.py")))["man_page"](
            cli, __version__
        )
        return page
