"""What `lensdiff plan` says and what the run then takes, by step, in seconds of processor time.

    python experiments/benchmarks/plans.py CONFIG.toml

The plan and the run are a process of their own each, on one thread, and their clock is that of the process: what others
do on the machine counts for little. Controls are made in the first step that reads them, so their making and their
check stand in one row. The results directory of the config has to be missing or empty.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

LEAST = 0.5  # seconds of a step that has a row of its own
MADE = "control_validity"  # the step that is first to read every control


def planned(config: str) -> dict[str, Any]:
    """Return what is planned: seconds by step, bytes of memory and of results."""
    import lensdiff

    began = time.process_time()
    found = lensdiff.plan(config)
    steps = {step.name: step.seconds for step in found.steps}
    steps[MADE] = steps.get(MADE, 0.0) + found.making
    return {
        "steps": {**found.around, **steps},
        "peak": found.peak,
        "bytes": found.bytes,
        "own": time.process_time() - began,
    }


def taken(config: str) -> dict[str, Any]:
    """Return the same of the run itself."""
    from lensdiff.pipeline.execute import execute, read_config
    from lensdiff.pipeline.report import Report
    from lensdiff.pipeline.runner import Runner

    begins: list[float] = []
    run, started = Runner.run, time.process_time()

    def timed(self: Runner) -> None:
        begins.append(time.process_time())
        run(self)
        begins.append(time.process_time())

    Runner.run = timed  # once for the pair's description, once for everything else
    store = execute(read_config(config), estimate=False)
    Report(store).save()
    ended = time.process_time()
    steps = {name: sum(unit.seconds for unit in step.units.values()) for name, step in store.manifest.steps.items()}
    own = begins[-1] - begins[-2] - sum(steps.values()) + steps["pair"]
    around = {
        "start": started,
        "loading": begins[-2] - started,
        "between units": own,
        "tables and report": ended - begins[-1],
    }
    held = sum(path.stat().st_size for path in (store.root / "arrays").rglob("*") if path.is_file())
    return {"steps": around | steps, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "bytes": held}


def rows(plan: dict[str, float], run: dict[str, float]) -> list[tuple[str, float, float]]:
    """Return name, planned and taken seconds of what takes long, the rest in one row, and the sum."""
    found: list[tuple[str, float, float]] = []
    rest = [0.0, 0.0]
    for name in dict.fromkeys([*plan, *run]):
        both = plan.get(name, 0.0), run.get(name, 0.0)
        if max(both) >= LEAST:
            found.append((name, *both))
        else:
            rest = [rest[0] + both[0], rest[1] + both[1]]
    return [*found, ("everything else", rest[0], rest[1]), ("in all", sum(plan.values()), sum(run.values()))]


def main(
    config: Annotated[Path, typer.Argument(help="The config of the run.")],
    only: Annotated[str, typer.Option(help="plan or run: that alone, as JSON.")] = "",
) -> None:
    """Plan a run, do it, and print both."""
    if only:
        time.perf_counter = time.process_time  # before anything of lensdiff is imported
        sys.stdout.write(json.dumps((planned if only == "plan" else taken)(str(config))) + "\n")
        return
    found = {}
    for what in ("plan", "run"):
        command = [sys.executable, __file__, str(config), "--only", what]
        done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, check=True)
        found[what] = json.loads(done.stdout.splitlines()[-1])
    plan, run = found["plan"], found["run"]
    console = Console(soft_wrap=True, highlight=False)
    console.print("| step | planned, s | taken, s | planned / taken |\n|---|---|---|---|")
    for name, a, b in rows(plan["steps"], run["steps"]):
        console.print(f"| {name} | {a:.1f} | {b:.1f} | {a / b if b else float('nan'):.2f} |", markup=False)
    for name in ("peak", "bytes"):
        console.print(f"{name}: {plan[name] / 2**20:.0f} MiB planned, {run[name] / 2**20:.0f} MiB taken")
    console.print(f"the plan itself took {plan['own']:.1f} s")


if __name__ == "__main__":
    typer.run(main)
