"""Puts the recogniser that ships, which `results/` keeps, into the package that is built."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = [Path("results/checkpoints") / name
           for name in ("recogniser.safetensors", "confidence.json")]


class WithRecogniser(build_py):
    """Builds the package with its weights; an editable install finds them in the checkout."""

    def run(self):
        super().run()
        for file in SHIPPED:
            if file.is_file() and not self.editable_mode:
                self.copy_file(str(file), str(Path(self.build_lib) / "mmlib" / file.name))


setup(cmdclass={"build_py": WithRecogniser})
