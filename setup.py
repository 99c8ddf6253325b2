"""Puts the recogniser that ships, which `results/` keeps, into the package that is built."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = Path("results/checkpoints/recogniser.safetensors")


class WithRecogniser(build_py):
    """Builds the package with its weights; an editable install finds them in the checkout."""

    def run(self):
        super().run()
        if SHIPPED.is_file() and not self.editable_mode:
            self.copy_file(str(SHIPPED), str(Path(self.build_lib) / "mmlib" / SHIPPED.name))


setup(cmdclass={"build_py": WithRecogniser})
