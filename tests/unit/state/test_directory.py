"""Names: one holder each, gone with its owner."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from actorlite.ids import ProcessId
from actorlite.state.directory import Directory, Holder

PROCESSES = {ProcessId(process): ProcessId(node) for process, node in (("p1", "n1"), ("p2", "n1"), ("p3", "n2"))}
NODES = st.sampled_from(sorted(set(PROCESSES.values())))


class DirectoryAgainstADict(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = Directory()
        self.model: dict[tuple[str, str, str], Holder] = {}
        self.made = 0

    keys = st.tuples(st.sampled_from(["actor", "group"]), st.sampled_from("ab"), st.sampled_from("xyz"))

    @rule(key=keys, owner=st.sampled_from(["", *PROCESSES]))
    def claim(self, key: tuple[str, str, str], owner: str) -> None:
        self.made += 1
        process = ProcessId(owner)
        holder = Holder(*key, f"t{self.made}", b"", process, PROCESSES.get(process, ProcessId("")))
        expected = self.model.setdefault(key, holder)
        assert self.directory.claim(holder) is expected

    @rule(key=keys, right=st.booleans())
    def release(self, key: tuple[str, str, str], right: bool) -> None:
        known = self.model.get(key)
        target = known.target if known is not None and right else "another"
        released = self.directory.release(*key, target)
        assert released == (known is not None and right)
        if released:
            del self.model[key]

    @rule(process=st.sampled_from(sorted(PROCESSES)), node=NODES)
    def process_ended(self, process: ProcessId, node: ProcessId) -> None:
        gone = {each.key for each in self.model.values() if each.owner == process and each.node == node}
        assert {each.key for each in self.directory.process_ended(process, node)} == gone
        for key in gone:
            del self.model[key]

    @rule(node=NODES)
    def node_lost(self, node: ProcessId) -> None:
        gone = {each.key for each in self.model.values() if each.node == node}
        assert {each.key for each in self.directory.node_lost(node)} == gone
        for key in gone:
            del self.model[key]

    @rule(kind=st.sampled_from(["actor", "group"]), namespace=st.sampled_from(["", "a", "b"]))
    def listed(self, kind: str, namespace: str) -> None:
        expected = sorted(key for key in self.model if key[0] == kind and namespace in ("", key[1]))
        assert [each.key for each in self.directory.listed(kind, namespace)] == expected

    @rule(key=keys)
    def find(self, key: tuple[str, str, str]) -> None:
        assert self.directory.find(*key) is self.model.get(key)

    @invariant()
    def its_parts_agree(self) -> None:
        self.directory.check()
        assert len(self.directory) == len(self.model)


DirectoryAgainstADict.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_directory_against_a_dict = DirectoryAgainstADict.TestCase
