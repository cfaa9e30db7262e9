"""A story: a batch whose process dies at one or more points, and the outcome."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.objects import Objects, local_path
from tasks.emulator import Emulator
from tests.crashes.child import Errand
from tests.crashes.forks import Ended
from tests.crashes.laws import Broken, End, Found, at_any_time, at_the_end, found
from tests.crashes.stage import JOBS

if TYPE_CHECKING:
    from tests.crashes.teller import Teller

NOWHERE = "nowhere"
"""A point that no night reaches."""


@dataclass(frozen=True)
class Story:
    """The points at which a batch dies: first in its first night, then in the next
    one."""

    route: str
    points: tuple[str, ...] = ()
    stopped: bool = False
    """Whether it only stops at its one point, and continues after another run took
    over."""
    bug: str | None = None
    elsewhere: bool = False
    """Whether its shards are joined, as from separate processes."""

    @property
    def command(self) -> str:
        words = ["python -m tests.crashes", f"--route {self.route}"]
        words += [f'--point "{point}"' for point in self.points]
        words += ["--stopped"] if self.stopped else []
        words += [f"--bug {self.bug}"] if self.bug else []
        words += ["--elsewhere"] if self.elsewhere else []
        return " ".join(words)


@dataclass
class Told:
    """The outcome of a story."""

    story: Story
    met: int = 0
    """How many of its points were reached: which files there are may depend on
    timing."""
    broken: list[Broken] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    """The points of the night that reached the last point."""
    imported: list[str] = field(default_factory=list)
    output: str = ""
    """The output of its processes."""

    def __str__(self) -> str:
        lines = [f"{law}: {what}" for law, what in self.broken]
        tail = self.output.splitlines()[-30:]
        return "\n  ".join([self.story.command, *lines, *tail])


@dataclass
class Telling:
    """A story in progress."""

    teller: "Teller"
    story: Story
    folder: Path
    emulator: Emulator
    doubts: set[str] = field(default_factory=set)
    how: dict[str, Any] = field(default_factory=dict)
    """Options of all errands."""

    def __post_init__(self) -> None:
        self.told = Told(self.story)
        self.root = self.teller.root(self.folder)
        if self.root.startswith("file:"):
            local_path(self.root).mkdir(parents=True, exist_ok=True)
        self.objects = Objects.open(self.root)
        self.errands = 0

    def killed(self) -> Told:
        """Die at each point, then run to the end, and once more."""
        for point in self.story.points:
            ended = self._night(point)
            self.told.met += ended.killed
            if not ended.killed and (ended.by or not ended.report):
                self._broke("ends", f"the process ended by {ended.by} at no point")
            self.told.trace = ended.report.get("trace", [])
            self.told.trace += [x for door in self.teller.doors for x in door.trace]
            self.told.imported = ended.report.get("imported", [])
            now = self._look()
            self.doubts |= now.in_doubt
        self._end()
        return self.told

    def stopped(self) -> Told:
        """Stop at the point while another run takes over, and then continue."""
        [point] = self.story.points
        # Most of a day: then a doubt is old by any clock.
        self.how = {"settle_s": 60.0, "ahead": str(self.folder / "ahead")}
        (self.folder / "ahead").write_text("0")
        first = self._errand(point=point, stopped=True)
        pid = self._begin(first)
        self.told.met = self.teller.forks.ended(first).stopped
        if self.told.met:
            now = self._look()
            self.doubts |= now.in_doubt
            (self.folder / "ahead").write_text("60000")
            self._night(None, take_over=True)
            before = self._look()
            self.teller.forks.resume(pid)
            ended = self.teller.forks.ended(first)
            self._fenced(ended, before, was_done=now.is_done(JOBS))
        self._end()
        return self.told

    def _fenced(self, ended: Ended, before: Found, *, was_done: bool) -> None:
        """A run that was taken over learns it, and records nothing more."""
        after = self._look()
        if [*after.entries] != [*before.entries]:
            more = len(after.entries) - len(before.entries)
            self._broke("fenced", f"{more} entries of who was taken over")
        if ended.by or not ended.report:
            self._broke("ends", f"who was stopped ended by {ended.by}")
            return
        error = ended.report["nights"][0].get("error")
        if not was_done and error != "FencedError":
            self._broke("fenced", f"who was taken over ended with {error}")

    def _end(self) -> None:
        """Run two nights without a kill."""
        errand = self._errand(nights=2)
        submits = len(self.teller.door.submits)
        self._begin(errand)
        ended = self.teller.forks.ended(errand)
        now = self._look()
        if ended.by or not ended.report:
            self._broke("free at once", f"the last process ended by {ended.by}")
            return
        second, third = ended.report["nights"]
        late = self.teller.door.submits[submits + second.get("bought", 0) :]
        end = End(
            now=now,
            bill=self.emulator.bill,
            jobs=JOBS,
            doubts=self.doubts,
            tells=self.teller.tells,
            second=second,
            third=third,
            late=late,
            elsewhere=self.story.elsewhere,
        )
        self.told.broken += at_the_end(end)

    def _night(self, point: str | None, *, take_over: bool = False) -> Ended:
        errand = self._errand(point=point, take_over=take_over)
        self._begin(errand)
        return self.teller.forks.ended(errand)

    def _errand(self, **how: Any) -> Errand:
        self.errands += 1
        return Errand(
            folder=str(self.folder / f"process-{self.errands}"),
            manifest=self.teller.manifest,
            root=self.root,
            route=self.teller.route,
            key=self.teller.key,
            url=self.teller.url,
            bug=self.story.bug,
            elsewhere=self.story.elsewhere,
            stall_s=self.teller.stall_s,
            # The run's state on its machine stays in this folder.
            env=self.teller.env | {"XDG_STATE_HOME": str(self.folder)},
            **self.how,
            **how,
        )

    def _begin(self, errand: Errand) -> int:
        for door in self.teller.doors:
            door.watch(errand.point)
        pid = self.teller.forks.begin(errand)
        for door in self.teller.doors:
            door.expect(pid)
        return pid

    def _look(self) -> Found:
        now = asyncio.run(found(self.objects))
        bill = self.emulator.bill
        self.told.broken += [
            law
            for law in at_any_time(now, self.teller.door, bill)
            if law not in self.told.broken
        ]
        return now

    def _broke(self, law: str, what: str) -> None:
        self.told.broken.append((law, what))
