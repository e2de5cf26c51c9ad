from collections.abc import Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st

from maitre.placement.steps import Step, ordered_steps
from maitre.serving.errors import VllmError
from maitre.serving.fleet.apply import apply_steps

Placed = dict[str, dict[str, float]]


class Pretend:
    """Servers in memory; refuses what it is told to."""

    def __init__(self, placed: Placed, servers: set[str], refused: set[tuple[str, str]]) -> None:
        self.held = {s: {a for a, on in placed.items() if s in on} for s in servers}
        self.routes = {a: dict(on) for a, on in placed.items()}
        self.refused, self.unserved = refused, set()
        self.staying: set[str] = set()

    def start(self, names: Sequence[str]) -> dict[str, str]:
        bad = {n: "would not start" for n in names if ("", n) in self.refused}
        self.held.update({n: set() for n in names if n not in bad})
        return bad

    def restart(self, name: str) -> None:
        return

    def load(self, server: str, adapter: str) -> None:
        if (adapter, server) in self.refused:
            raise VllmError("refused")
        self.held[server].add(adapter)
        self._look()

    def unload(self, server: str, adapter: str) -> None:
        self.held[server].discard(adapter)
        self._look()

    def route(self, adapter: str, shares: Mapping[str, float]) -> None:
        self.routes[adapter] = dict(shares)
        self._look()

    def stop(self, name: str) -> None:
        del self.held[name]
        self._look()

    def _look(self) -> None:
        for adapter in self.staying:
            on = self.routes.get(adapter, {})
            if not on or any(adapter not in self.held.get(s, set()) for s in on):
                self.unserved.add(adapter)


NAMES = st.sampled_from(["a", "b", "c", "d"])
SERVERS = st.sampled_from(["s", "t", "u"])


def placements() -> st.SearchStrategy[Placed]:
    return st.dictionaries(NAMES, st.sets(SERVERS, min_size=1, max_size=2), max_size=4).map(
        lambda found: {a: {s: 1 / len(on) for s in on} for a, on in found.items()}
    )


def servers_of(placed: Placed) -> set[str]:
    return {server for on in placed.values() for server in on}


@given(placements(), placements(), st.sets(st.tuples(st.one_of(NAMES, st.just("")), SERVERS)))
def test_no_adapter_that_stays_is_ever_unserved(
    before: Placed, after: Placed, refused: set[tuple[str, str]]
) -> None:
    old, new = servers_of(before), servers_of(after)
    pretend = Pretend(before, old, refused)
    pretend.staying = before.keys() & after.keys()
    steps = ordered_steps(before, after, tuple(sorted(new - old)), (), tuple(sorted(old - new)))
    done = apply_steps(steps, pretend, before)
    assert not pretend.unserved
    for adapter, on in pretend.routes.items():
        for server in on:
            assert adapter in pretend.held[server], "routed to a server that does not hold it"
    if done.complete:
        assert {a: on for a, on in pretend.routes.items() if on} == after
    else:
        assert done.failed, "nothing is left out without a failure"


def test_an_adapter_that_fails_is_named_and_the_others_go_on() -> None:
    pretend = Pretend({}, set(), {("a", "s")})
    steps = ordered_steps({}, {"a": {"s": 1.0}, "b": {"s": 1.0}}, ("s",), (), ())
    done = apply_steps(steps, pretend, {})
    assert [str(failure) for failure in done.failed] == ["load a s: refused"]
    assert pretend.held["s"] == {"b"}
    assert Step("load", "s", "b") in done.done
    assert not done.complete
