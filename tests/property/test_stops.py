"""A signal that ends the process becomes no row, wherever it comes, also where failures are caught.

Every ``except Exception`` of the package that some jobs pass through is found by tracing them, and
is stopped there, as submitit does it: by a handler that raises in the middle of whatever runs.
Among them are all in the rooms where rows are made that do not raise again.
"""

from __future__ import annotations

import ast
import random
import signal
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import attrscore
from attrscore import store
from attrscore.cli.hydra_app import configuration, settings_of
from attrscore.datasets.phantom import Phantom
from attrscore.errors import Stopped, stoppable
from attrscore.jobs.run import run_job

PACKAGE = Path(attrscore.__file__).parent
WIDE = {"Exception", "BaseException", "KeyboardInterrupt"}


class UncompletedError(Exception):
    """As submitit raises it where a job is not to be queued again."""


def raising(kind):
    def handler(*_):
        raise kind("of the handler")

    return handler


STOPS = [
    (signal.SIGUSR2, raising(UncompletedError), UncompletedError),
    (signal.SIGUSR2, raising(SystemExit), SystemExit),
    (signal.SIGTERM, signal.SIG_DFL, Stopped),
    (signal.SIGINT, signal.default_int_handler, KeyboardInterrupt),
]


def names(node):
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)} if node else WIDE


def catching():
    """File and line of each statement under which every exception is caught -> its lines.

    And those places that do not always raise again.
    """
    found, recording = {}, set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            handlers = node.handlers if isinstance(node, ast.Try) else []
            wide = [each for each in handlers if WIDE & names(each.type)]
            ends = all(isinstance(each.body[-1], ast.Raise) for each in wide)
            if isinstance(node, ast.With):
                calls = [i.context_expr for i in node.items if isinstance(i.context_expr, ast.Call)]
                wide = [c for c in calls if "suppress" in ast.unparse(c.func) and WIDE & names(c)]
                ends = False
            if wide:
                lines = range(node.body[0].lineno, node.body[-1].end_lineno + 1)
                found[str(path), lines.start] = lines
                recording |= set() if ends else {(str(path), lines.start)}
    return found, recording


CATCHING, RECORDING = catching()
FILES = {path for path, _ in CATCHING}
ROWS = (str(PACKAGE / "engine"), str(PACKAGE / "core" / "passes.py"))
"""Where rows are made, of what a pass met."""


class Tracer:
    """Calls ``at`` with each place where exceptions are caught, when a job comes to it."""

    def __init__(self, at):
        self.at = at
        self.places = {}

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self.call)

    def __exit__(self, *_):
        sys.settrace(self.before)

    def call(self, frame, _event, _argument):
        code = frame.f_code
        if code not in self.places:
            lines = {line for *_, line in code.co_lines()} if code.co_filename in FILES else set()
            self.places[code] = [
                place for place in CATCHING if place[0] == code.co_filename and place[1] in lines
            ]
        return self.line(self.places[code]) if self.places[code] else None

    def line(self, places):
        def line(frame, event, _argument):
            for place in places:
                if event == "line" and frame.f_lineno in CATCHING[place]:
                    self.at(place)
            return line

        return line


JOB = [
    *("dataset.cells=6", "dataset.size=[16,16]", "batch_size=3", "figures=none", "pool=4"),
    *("method=[grad_cam,guided_backprop,smooth_grad]", "scorer=[grad_camo,swap,deletion]"),
    "threads=1",
]
TWO_TARGETS = [*JOB, "method=grad_cam", "target=embedding", "target.index=[0,1]", "scorer=swap"]


@pytest.fixture(scope="module", params=[JOB, TWO_TARGETS], ids=["methods", "two targets"])
def settings(request):
    return settings_of(configuration(request.param))


@pytest.fixture(autouse=True, scope="module")
def one_that_cannot_be_read():
    """Of the six cells."""
    read = Phantom.read

    def refusing(self, rows, /):
        if 4 in rows:
            raise OSError("a file that is gone")
        return read(self, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Phantom, "read", refusing)
        yield


@pytest.fixture(scope="module")
def reached(settings, tmp_path_factory):
    """The places that the job passes through, in order, and its results."""
    places, folder = {}, tmp_path_factory.mktemp("reference")
    with Tracer(lambda place: places.setdefault(place)):
        run_job({**settings, "results": str(folder)})
    return list(places), folder


def parts(folder):
    return {path.name: path.read_bytes() for path in Path(folder).glob("jobs/*/*.h5")}


@pytest.fixture
def stop():
    before = {number: signal.getsignal(number) for number, *_ in STOPS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def check(settings, folder, reference):
    """What the stopped job left has no failure, and the same command completes it."""
    for path in folder.glob("jobs/*/*.h5"):
        assert set(store.read_part(path).table["status"]) <= {"ok", "unreadable"}
    run_job({**settings, "results": str(folder)})
    assert parts(folder) == parts(reference)


def test_a_job_stopped_where_failures_are_caught_has_no_row_of_it(
    settings, reached, stop, tmp_path
):
    places, reference = reached
    for number, place in enumerate(places):
        which, handler, raised = STOPS[number % len(STOPS)]
        signal.signal(which, handler)
        folder = tmp_path / str(number)
        once = [place]

        def at(found, which=which, once=once):
            if found in once:
                once.clear()
                signal.raise_signal(which)

        with pytest.raises(raised), Tracer(at):
            run_job({**settings, "results": str(folder)})
        assert not once, "it was not reached again"
        check(settings, folder, reference)


def explained():
    """Results as attrscore.run yields them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 2))
    batch = Phantom(cells=3, size=(16, 16), channels=2).read(range(3))
    return list(attrscore.run(model, [batch], layers="0", methods=["grad_cam", "saliency"]))


def test_attrscore_run_makes_no_row_of_it_either(stop):
    places = {}
    with Tracer(lambda place: places.setdefault(place)):
        explained()
    signal.signal(signal.SIGUSR2, raising(UncompletedError))
    for place in places:
        once = [place]

        def at(found, once=once):
            if found in once:
                once.clear()
                signal.raise_signal(signal.SIGUSR2)

        with pytest.raises(UncompletedError), Tracer(at):
            explained()


def test_every_place_where_rows_are_made_is_among_them(tmp_path):
    passed = set()
    with Tracer(passed.add):
        explained()
        for number, job in enumerate((JOB, TWO_TARGETS)):
            run_job({**settings_of(configuration(job)), "results": str(tmp_path / str(number))})
    there = {place for place in RECORDING if place[0].startswith(ROWS)}
    assert there <= passed
    assert len(there) >= 10


# Python cannot raise what comes while it throws a generator away: ``stoppable`` keeps it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("settings", [JOB], ids=["methods"], indirect=True)
def test_a_job_stopped_at_any_moment_has_no_row_of_it(settings, reached, stop, tmp_path):
    moments = random.Random(0)
    calls = 0

    def counted(_frame, event, _argument):
        nonlocal calls
        calls += event == "call"

    sys.setprofile(counted)
    run_job({**settings, "results": str(tmp_path / "counted")})
    sys.setprofile(None)
    total = calls
    for number in range(6):
        which, handler, raised = STOPS[number % len(STOPS)]
        signal.signal(which, handler)
        folder = tmp_path / str(number)
        left = moments.randrange(total)

        def profile(_frame, event, _argument, which=which):
            nonlocal left
            left -= event == "call"
            if left == 0:
                left -= 1
                sys.setprofile(None)
                signal.raise_signal(which)

        sys.setprofile(profile)
        try:
            with pytest.raises(raised):
                run_job({**settings, "results": str(folder)})
        finally:
            sys.setprofile(None)
        check(settings, folder, reached[1])


@pytest.mark.parametrize("settings", [JOB], ids=["methods"], indirect=True)
def test_other_peoples_code_cannot_swallow_a_stop(settings, stop, tmp_path):
    signal.signal(signal.SIGUSR2, raising(UncompletedError))

    def greedy(heat, run, /):
        try:
            signal.raise_signal(signal.SIGUSR2)
        except:  # noqa: E722
            raise ValueError("it went wrong") from None

    attrscore.SCORERS.register("greedy")(greedy)
    try:
        asked = {**settings, "scorer": {"greedy": {}}, "results": str(tmp_path)}
        with pytest.raises(UncompletedError):
            run_job(asked)
    finally:
        attrscore.SCORERS._local.pop("greedy")
    assert not parts(tmp_path)


def test_handlers_are_as_before_and_nothing_catches_a_stop_for_good():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="SIGTERM"), stoppable(), stoppable():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ExceptHandler) or path.name in ("main.py", "errors.py"):
                continue
            if {"BaseException", "KeyboardInterrupt"} & names(node.type):
                assert isinstance(node.body[-1], ast.Raise), f"{path}:{node.lineno}"
