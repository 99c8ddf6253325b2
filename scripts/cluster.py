"""Many commands of mmlib on a cluster, through submitit: `python -m scripts.cluster jobs.tsv`.

Each line of the file is a job: a name, a tab, and what comes after `mmlib`:

    seed1	pretrain --profile study --seed 1
    seed2	pretrain --profile study --seed 2

A training goes on from its checkpoint, so a job that was preempted or killed is started again with
the same command. One that fails is named at the end and does not stop the others. Several GPUs for
one training are Accelerate's, not this script's.
"""

from __future__ import annotations

import argparse
import itertools
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mmlib.cli import STOPPED

AGAIN = 3  # starts of a job that a signal ended or paused


def read_jobs(path: Path) -> list[tuple[str, str]]:
    """Names and command lines; raises ValueError for a line that is no job or names one twice."""
    jobs: dict[str, str] = {}
    for line in path.read_text("utf-8").splitlines():
        name, tab, command = line.partition("\t")
        if not line.strip() or line.startswith("#"):
            continue
        if not tab or name in jobs or "/" in name:
            raise ValueError(f"{path}: a job is a name of its own, a tab and a command: {line!r}")
        jobs[name] = command
    return list(jobs.items())


class Command:
    """Runs an `mmlib` command, again where a signal ended or paused it; gives its exit code."""

    def __init__(self, module: str = "mmlib"):
        self.module = module

    def __call__(self, command: str) -> int:
        for _ in range(AGAIN):
            code = subprocess.call([sys.executable, "-m", self.module, *shlex.split(command)])
            if code >= 0 and code != STOPPED:
                break
        return code

    def checkpoint(self, command: str) -> object:
        """What Slurm queues anew when it takes the machine away: the same, from its checkpoint."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, command)


def submit(jobs: Sequence[tuple[str, str]], on: str, folder: Path, at_once: int,
           options: dict[str, object], dry_run: bool = False, module: str = "mmlib") -> list[str]:
    """Run jobs on `slurm` or, `at_once` of them at a time, here; returns the names that failed.

    options: of submitit's Slurm executor, such as `slurm_partition`. dry_run: show the script only.
    module: what runs the commands.
    Raises ImportError without submitit.
    """
    import submitit

    if dry_run:
        from submitit.slurm import slurm

        given = {name.removeprefix("slurm_"): value for name, value in options.items()}
        given = {{"timeout_min": "time"}.get(name, name): value for name, value in given.items()}
        for name, command in jobs:
            line = f"{shlex.quote(sys.executable)} -m {module} {command}"
            print(slurm._make_sbatch_string(line, folder, job_name=name, **given))
        return []
    executor = submitit.AutoExecutor(folder, cluster={"here": "local"}.get(on, on))
    executor.update_parameters(**options if on == "slurm" else {"timeout_min": 7 * 24 * 60})
    waiting, running, failed = iter(jobs), {}, []
    most = at_once if on == "here" else len(jobs)  # a scheduler has its own queue
    while True:
        for name, command in itertools.islice(waiting, most - len(running)):
            executor.update_parameters(name=name)
            running[name] = executor.submit(Command(module), command)
            print(f"{name}: job {running[name].job_id}", flush=True)
        for name, job in [(n, j) for n, j in running.items() if j.done()]:
            del running[name]
            code = job.result() if job.exception() is None else job.exception()
            if code != 0:
                failed.append(name)
                print(f"{name} failed ({code}): {job.paths.stderr}", flush=True)
        if not running:
            return failed
        time.sleep(1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 1 where a job failed, which it names."""
    parser = argparse.ArgumentParser("scripts.cluster", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", type=Path, help="file of names and commands")
    parser.add_argument("--on", choices=("here", "slurm"), default="here")
    parser.add_argument("--at-once", type=int, default=2, help="jobs at a time, here (2)")
    parser.add_argument("--partition", help="of Slurm")
    parser.add_argument("--gpus", type=int, default=1, help="of a job, on Slurm (1)")
    parser.add_argument("--minutes", type=int, default=24 * 60, help="limit of a job, on Slurm")
    parser.add_argument("--dry-run", action="store_true", help="show Slurm's scripts alone")
    parser.add_argument("--logs", type=Path, default=Path("results/runs/jobs"))
    args = parser.parse_args(argv)
    options = {"timeout_min": args.minutes, "slurm_gpus_per_node": args.gpus}
    options |= {"slurm_partition": args.partition} if args.partition else {}
    try:
        jobs = read_jobs(args.jobs)
        failed = submit(jobs, args.on, args.logs, args.at_once, options, args.dry_run)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    except ImportError:
        parser.error("this needs the extra: pip install '.[cluster]'")
    if failed:
        print(f"{len(failed)} of {len(jobs)} failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
