"""Calls every operator and every public function of the operators' packages with hostile arguments.

    python tests/fuzz_operators.py --calls 10000 --seed 0 --device cpu

A call must give a right result or raise an error of one clear sentence. Results are compared with the references in
float64. The calls are made in child processes, so that a crash, a hang or an allocation without end ends a child alone,
and the call that did it is known. Seed and number say what a call is: ``--first 1234 --calls 1`` makes it again.

With ``--derivatives``, derivatives of the functions are compiled and compared with float64 without torch.compile.

CONTRIBUTING.md says how to run this with AddressSanitizer, and on a GPU under compute-sanitizer.
"""

import argparse
import collections
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hostile.derivatives import DerivativeJudge
from hostile.judging import NAMES, Judge, Outcome


def main() -> int:
    arguments = parse()
    missing = undrawn()
    if missing:
        print(f"error: tests/hostile has no drawing of {', '.join(missing)}; add one to OPERATORS or FUNCTIONS")
        return 2
    if arguments.journal:
        run_child(arguments)
        return 0
    started = time.monotonic()
    outcomes = run_here(arguments) if arguments.processes == 0 else run_children(arguments)
    report(names_of(arguments), outcomes, time.monotonic() - started)
    return 1 if any(outcome.is_finding for outcome in outcomes.values()) else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first call")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--processes", type=int, default=1, help="child processes; 0 makes all calls in this one")
    parser.add_argument("--no-reference", action="store_true", help="compare no values")
    parser.add_argument("--no-large", action="store_true", help="no sizes of 2^31, which take gigabytes")
    parser.add_argument("--derivatives", action="store_true", help="derivatives and torch.vmap under torch.compile")
    parser.add_argument("--compiler", help="backend of torch.compile for --derivatives (default: aot_eager)")
    parser.add_argument("--seconds", type=float, default=120, help="a call that takes longer counts as a hang")
    parser.add_argument("--memory", type=float, help="GiB of a child's address space; 8 on the CPU, 0 sets no limit")
    parser.add_argument("--trace", action="store_true", help="print every call before it is made")
    parser.add_argument("--journal", type=Path, help=argparse.SUPPRESS)  # for child processes
    arguments = parser.parse_args()
    if arguments.derivatives and (arguments.no_reference or arguments.no_large):
        parser.error("derivatives are always compared, and never large")
    if arguments.compiler and not arguments.derivatives:
        parser.error("--compiler is for --derivatives")
    return arguments


def undrawn() -> list[str]:
    """Operators of the library and public functions that no drawing exists for."""
    import torch
    from hostile.functions import PACKAGES, public_functions

    namespaces = {package.__name__.partition(".")[0] for package in PACKAGES}
    operators = {schema.name for schema in torch._C._jit_get_all_schemas()}
    operators = {name for name in operators if name.partition("::")[0] in namespaces}
    return sorted((operators | set(public_functions())) - set(NAMES))


def judge_for(arguments: argparse.Namespace, announce) -> Judge | DerivativeJudge:
    import torch

    torch.set_num_threads(1)
    if arguments.derivatives:
        return DerivativeJudge(arguments.seed, arguments.device, arguments.compiler or "aot_eager", announce)
    return Judge(arguments.seed, arguments.device, not arguments.no_reference, not arguments.no_large, announce)


def names_of(arguments: argparse.Namespace) -> tuple[str, ...]:
    """What is called, in turn."""
    return DerivativeJudge.names if arguments.derivatives else NAMES


def run_here(arguments: argparse.Namespace) -> dict[int, Outcome]:
    """All calls in this process. It ends at a finding that leaves the device unusable."""

    def announce(number: int, name: str, call: str) -> None:
        if arguments.trace:
            print(f"call {number}: {call}", flush=True)

    judge, outcomes = judge_for(arguments, announce), {}
    for number in range(arguments.first, arguments.first + arguments.calls):
        outcomes[number] = judge.judge(number)
        if outcomes[number].is_finding:
            show(number, outcomes[number])
        if outcomes[number].kind == "crash":
            print(f"the device is lost; go on with --first {number + 1}")
            break
    return outcomes


def run_child(arguments: argparse.Namespace) -> None:
    """Write to the journal what each call is, before it is made, and what came of it."""
    # CUDA reserves far more addresses than it uses.
    memory = (8 if arguments.device == "cpu" else 0) if arguments.memory is None else arguments.memory
    if memory:
        limit = int(memory * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with arguments.journal.open("a", buffering=1) as journal:
        judge = judge_for(arguments, lambda *call: journal.write(json.dumps(["begin", *call]) + "\n"))
        for number in range(arguments.first, arguments.first + arguments.calls):
            journal.write(json.dumps(["draw", number]) + "\n")
            outcome = judge.judge(number)
            journal.write(json.dumps(["end", number, *vars(outcome).values()]) + "\n")


def run_children(arguments: argparse.Namespace) -> dict[int, Outcome]:
    """All calls in child processes, each of which takes every n-th stretch of the calls."""
    outcomes: dict[int, Outcome] = {}
    end = arguments.first + arguments.calls
    share = max(1, -(-arguments.calls // (4 * arguments.processes)))
    stretches = collections.deque(range(arguments.first, end, min(share, 1000)))
    children: list[Child] = []
    while stretches or children:
        while stretches and len(children) < arguments.processes:
            first = stretches.popleft()
            children.append(Child(arguments, first, min(first + min(share, 1000), end)))
        time.sleep(0.2)
        for child in list(children):
            if child.poll(outcomes):
                children.remove(child)
    return dict(sorted(outcomes.items()))


class Child:
    """A process that makes a stretch of the calls, and is started again after a call that ended it."""

    def __init__(self, arguments: argparse.Namespace, first: int, end: int):
        self.arguments, self.end = arguments, end
        self.folder = tempfile.TemporaryDirectory()
        self.start(first)

    def start(self, first: int) -> None:
        self.journal = Path(self.folder.name) / f"{first}.jsonl"
        self.output = self.journal.with_suffix(".txt")
        stretch = ["--first", str(first), "--calls", str(self.end - first), "--journal", str(self.journal)]
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, __file__, *sys.argv[1:], *stretch], stdout=output, stderr=subprocess.STDOUT
            )
        self.size, self.changed = 0, time.monotonic()

    def poll(self, outcomes: dict[int, Outcome]) -> bool:
        """Take over what is in the journal. Returns whether the child has come to its end."""
        code = self.process.poll()
        size = self.journal.stat().st_size if self.journal.exists() else 0
        if size != self.size:
            self.size, self.changed = size, time.monotonic()
        is_late = time.monotonic() - self.changed > self.arguments.seconds
        if code is None and not is_late:
            return False
        if code is None:
            self.process.kill()
            self.process.wait()
        last = self.read(outcomes)
        if code == 0:
            return True
        if last is None:
            raise SystemExit(f"error: a child process did not start:\n{self.output.read_text()}")
        number, name, call = last
        lines = self.output.read_text().strip().splitlines()
        told = next(
            (line for line in lines if "ERROR: " in line or "runtime error" in line), lines[-1] if lines else ""
        )
        kind = "hang" if code is None else "crash"
        outcomes[number] = Outcome(name, kind, f"exit status {code}: {told}", call)
        show(number, outcomes[number])
        if number + 1 >= self.end:
            return True
        self.start(number + 1)
        return False

    def read(self, outcomes: dict[int, Outcome]) -> tuple[int, str, str] | None:
        """The last call of the journal, if it did not come to an end."""
        last = None
        for line in self.journal.read_text().splitlines() if self.journal.exists() else ():
            what, number, *rest = json.loads(line)
            if what == "end":
                outcomes[number], last = Outcome(*rest), None
                if outcomes[number].is_finding:
                    show(number, outcomes[number])
            elif what == "begin":
                last = (number, *rest)
            else:
                names = names_of(self.arguments)
                last = (number, names[number % len(names)], "while it was drawn")
        return last


def show(number: int, outcome: Outcome) -> None:
    print(f"FOUND call {number}: {outcome.kind}: {outcome.detail}\n    {outcome.call}", flush=True)


def report(names: tuple[str, ...], outcomes: dict[int, Outcome], seconds: float) -> None:
    """Print how many calls were right, ran, were refused or are findings, by operator."""
    counts = collections.defaultdict(collections.Counter)
    for outcome in outcomes.values():
        counts[outcome.name]["found" if outcome.is_finding else outcome.kind] += 1
    columns = ("right", "ran", "refused", "found")
    print(f"{'':44}" + "".join(f"{column:>10}" for column in columns))
    for name in names:
        print(f"{name:44}" + "".join(f"{counts[name][column]:10}" for column in columns))
    totals = [sum(count[column] for count in counts.values()) for column in columns]
    print(f"{f'{len(outcomes)} calls in {seconds:.0f} s':44}" + "".join(f"{total:10}" for total in totals))


if __name__ == "__main__":
    sys.exit(main())
