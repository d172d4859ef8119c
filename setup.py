"""What pyproject.toml can't say: a wheel holds the jobs, so that `mpisign train NAME` needs no repository."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithJobs(build_py):
    """Puts the jobs of the repository into the package, as mpisign/jobs."""

    def run(self):
        super().run()
        if self.editable_mode:  # they are beside the package then
            return
        for job in Path("jobs").rglob("*.toml"):
            target = Path(self.build_lib, "mpisign", job)
            self.mkpath(str(target.parent))
            self.copy_file(str(job), str(target))


setup(cmdclass={"build_py": WithJobs})
