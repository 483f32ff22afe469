"""Who has which name: of actors, and of whatever else may have one, per kind and namespace. Pure.

A name belongs to whoever claimed it first, until that is gone: released by its owner, or with its owner's process or
node. What is detached has no owner whose end would matter.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from actorlite.ids import ProcessId

NO_PROCESS = ProcessId("")


class Holder(Struct, frozen=True):
    """What has a name."""

    kind: str
    """`"actor"`, ..."""
    namespace: str
    name: str
    target: str
    """Its id."""
    entry: bytes = b""
    """What a process needs to use it; meaningless here."""
    owner: ProcessId = NO_PROCESS
    """The process with which the name ends; none for what is detached."""
    node: ProcessId = NO_PROCESS
    """The owner's node, with which it ends as well."""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.kind, self.namespace, self.name


class Directory:
    """All names of a cluster."""

    def __init__(self) -> None:
        self._holders: dict[tuple[str, str, str], Holder] = {}
        self._of_process: dict[ProcessId, set[tuple[str, str, str]]] = {}

    def claim(self, holder: Holder) -> Holder:
        """Whoever has the name now: `holder`, unless somebody was there before."""
        found = self._holders.setdefault(holder.key, holder)
        if found is holder and holder.owner:
            self._of_process.setdefault(holder.owner, set()).add(holder.key)
        return found

    def release(self, kind: str, namespace: str, name: str, target: str) -> bool:
        """The name is free, if `target` had it."""
        found = self._holders.get((kind, namespace, name))
        if found is None or found.target != target:
            return False
        self._drop(found)
        return True

    def find(self, kind: str, namespace: str, name: str) -> Holder | None:
        return self._holders.get((kind, namespace, name))

    def listed(self, kind: str, namespace: str = "") -> list[Holder]:
        """In one namespace, or in all, in order."""
        return sorted(self._of_kind(kind, namespace), key=lambda each: each.key)

    def process_ended(self, process: ProcessId, node: ProcessId) -> list[Holder]:
        """Its names are free, as its node says; returns what had them. What another node says changes nothing."""
        gone = [each for key in self._of_process.get(process, ()) if (each := self._holders[key]).node == node]
        for each in gone:
            self._drop(each)
        return gone

    def node_lost(self, node: ProcessId) -> list[Holder]:
        """The names of its processes are free."""
        gone = [each for each in self._holders.values() if each.owner and each.node == node]
        for each in gone:
            self._drop(each)
        return gone

    def check(self) -> None:
        """Raise `AssertionError` when its parts contradict each other: for tests."""
        owned = {(each.owner, key) for key, each in self._holders.items() if each.owner}
        assert owned == {(process, key) for process, keys in self._of_process.items() for key in keys}
        assert all(self._of_process.values()) and all(key == each.key for key, each in self._holders.items())

    def _of_kind(self, kind: str, namespace: str) -> Iterator[Holder]:
        for each in self._holders.values():
            if each.kind == kind and namespace in ("", each.namespace):
                yield each

    def _drop(self, holder: Holder) -> None:
        del self._holders[holder.key]
        keys = self._of_process.get(holder.owner)
        if keys is not None:
            keys.discard(holder.key)
            if not keys:
                del self._of_process[holder.owner]

    def __len__(self) -> int:
        return len(self._holders)

    def __repr__(self) -> str:
        return f"<Directory names={len(self)} processes={len(self._of_process)}>"
