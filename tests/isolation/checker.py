"""Judges recorded histories: was there an order of the transactions that explains all they saw?

A history is what clients noted of their transactions: when each was begun and answered, what it
read and what it appended to which list, and how it ended. Every appended value is unique, so the
longest state of a list that anybody read is the order in which it was written, and gives edges
between transactions (the edges are Adya's; to take lists is the idea of Kingsbury and Alvaro, in
"Elle: Inferring Isolation Anomalies from Experimental Observations", 2020):

    ww    the one wrote what the other wrote after
    wr    the other read what the one had written
    rw    the one read the state before the other wrote
    rt    the one had its answer before the other was begun

A cycle says that no order explains the history; its edges name the anomaly. What needs no graph,
such as a value of a transaction that failed, is looked for first.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import TypeVar

__all__ = ["Anomaly", "Transaction", "check", "read_histories"]

OK, FAILED, UNKNOWN = "ok", "failed", "unknown"

# Of each kind; a broken storage would fill books.
_REPORTS = 5

T = TypeVar("T")
Node = int  # of a transaction its place in the list, of a moment a negative number
Graph = dict[Node, dict[Node, set[str]]]


@dataclass(frozen=True)
class Anomaly:
    """Something that must not be.

    Attributes:
        kind: its name, such as "write skew".
        text: which transactions, lists and values.
    """

    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@dataclass
class Transaction:
    """What a client noted of one attempt at a transaction.

    Attributes:
        name: unique in the history.
        invoked_ns: before its beginning, by the clock that all processes share.
        returned_ns: when the client had its outcome, or None.
        outcome: OK, FAILED (certainly nothing of it is stored) or UNKNOWN.
        operations: ("read", list, its values) and ("append", list, [value]), in order.
        error: what was raised, or "".
        problems: what the client itself found wrong, such as a sum that is off.
    """

    name: str
    invoked_ns: int
    returned_ns: int | None = None
    outcome: str = UNKNOWN
    operations: list[tuple[str, str, list[str]]] = field(default_factory=list)
    error: str = ""
    problems: list[str] = field(default_factory=list)

    @property
    def appends(self) -> dict[str, list[str]]:
        """The values that it appended to each list."""
        found: dict[str, list[str]] = {}
        for operation, key, values in self.operations:
            if operation == "append":
                found.setdefault(key, []).extend(values)
        return found

    @property
    def reads(self) -> dict[str, list[str]]:
        """The state of each list that it read before it appended to it, as it was first read."""
        found: dict[str, list[str]] = {}
        written = set()
        for operation, key, values in self.operations:
            if operation == "append":
                written.add(key)
            elif key not in written:
                found.setdefault(key, values)
        return found

    def is_half_in(self, reader: Transaction) -> bool:
        """Tell whether one that read all lists that this one wrote saw some of it and not all."""
        appends, reads = self.appends, reader.reads
        if not appends.keys() <= reads.keys():
            return False
        seen = [value in reads[key] for key, values in appends.items() for value in values]
        return any(seen) and not all(seen)


def read_histories(folder: Path) -> list[Transaction]:
    """Read what the clients wrote: a line before each transaction and one after it.

    A line that a killed client did not finish is none, and a transaction without its second line
    has an unknown outcome.
    """
    found: dict[str, Transaction] = {}
    for path in sorted(folder.glob("*.history")):
        for line in path.read_bytes().split(b"\n")[:-1]:
            noted = json.loads(line)
            noted["operations"] = [tuple(operation) for operation in noted["operations"]]
            found[noted["name"]] = Transaction(**noted)
    return list(found.values())


def check(history: Iterable[Transaction]) -> list[Anomaly]:
    """Give every kind of anomaly in a history, with a few examples of each."""
    return _Checker(list(history)).run()


class _Checker:
    def __init__(self, history: list[Transaction]) -> None:
        self.history = history
        self.anomalies: list[Anomaly] = []
        self.counts: Counter[str] = Counter()
        self.reported: list[list[Node]] = []  # the cycles
        self.writer = {
            value: index
            for index, transaction in enumerate(history)
            for values in transaction.appends.values()
            for value in values
        }
        self.orders = self._find_orders()
        seen = {value for order in self.orders.values() for value in order}
        self.committed = [
            transaction.outcome == OK
            or (
                transaction.outcome == UNKNOWN
                and any(seen.intersection(values) for values in transaction.appends.values())
            )
            for transaction in history
        ]

    def run(self) -> list[Anomaly]:
        self._check_each()
        self._check_orders()
        self._check_versions()
        self._check_presence()
        graph = self._dependencies()
        if not self._check_cycles(graph):
            self._check_real_time(graph)
        return self.anomalies

    def report(self, kind: str, text: str) -> None:
        self.counts[kind] += 1
        if self.counts[kind] <= _REPORTS:
            self.anomalies.append(Anomaly(kind, text))

    def _find_orders(self) -> dict[str, list[str]]:
        """Give the longest state of each list that a transaction with an answer has read."""
        orders: dict[str, list[str]] = {}
        for transaction in self.history:
            if transaction.outcome != OK:
                continue
            for key, values in transaction.reads.items():
                if len(values) > len(orders.setdefault(key, [])):
                    orders[key] = values
        return orders

    # What each transaction shows by itself

    def _check_each(self) -> None:
        for transaction in self.history:
            for problem in transaction.problems:
                self.report("wrong state", f"{transaction.name}: {problem}")
            if "Conflict" in transaction.error and not transaction.appends:
                self.report("conflict of a reader", f"{transaction.name}: {transaction.error}")
            if transaction.outcome == OK:
                self._check_inside(transaction)

    def _check_inside(self, transaction: Transaction) -> None:
        """What a transaction has read or written it must find again."""
        known: dict[str, list[str]] = {}
        for operation, key, values in transaction.operations:
            if operation == "append":
                if key in known:
                    known[key] = known[key] + values
            elif known.setdefault(key, values) != values:
                self.report(
                    "inconsistent inside",
                    f"{transaction.name} read {values} in {key}, expected {known[key]}",
                )

    # What the states of one list show

    def _check_orders(self) -> None:
        for key, order in self.orders.items():
            for value, count in Counter(order).items():
                if count > 1:
                    self.report("appended twice", f"{value} is {count} times in {key}: {order}")
        for transaction in self.history:
            if transaction.outcome != OK:
                continue
            for key, values in transaction.reads.items():
                self._check_read(transaction, key, values)

    def _check_read(self, transaction: Transaction, key: str, values: list[str]) -> None:
        if self.orders[key][: len(values)] != values:
            self.report(
                "incompatible orders",
                f"{transaction.name} read {values} in {key}, another {self.orders[key]}",
            )
        for value in values:
            index = self.writer.get(value)
            if index is None:
                self.report("value from nowhere", f"{transaction.name} read {value} in {key}")
            elif self.history[index].outcome == FAILED:
                self.report(
                    "aborted read (G1a)",
                    f"{transaction.name} read {value} in {key}, of {self.history[index].name},"
                    f" which failed ({self.history[index].error})",
                )
        if values and (index := self.writer.get(values[-1])) is not None:
            last = self.history[index].appends.get(key, values)[-1]
            if last != values[-1]:
                self.report(
                    "intermediate read (G1b)",
                    f"{transaction.name} read {key} up to {values[-1]}, which"
                    f" {self.history[index].name} followed by {last} before it committed",
                )

    def _check_versions(self) -> None:
        """Two that read one state of a list and wrote it: one did not see the other's update."""
        readers: dict[tuple[str, tuple[str, ...]], str] = {}
        for index, transaction in enumerate(self.history):
            if not self.committed[index]:
                continue
            appends = transaction.appends
            for key, values in transaction.reads.items():
                if key not in appends:
                    continue
                other = readers.setdefault((key, tuple(values)), transaction.name)
                if other != transaction.name:
                    self.report(
                        "lost update",
                        f"{other} and {transaction.name} both wrote {key} on {values}",
                    )

    def _check_presence(self) -> None:
        """What was acknowledged is there for whoever came later, and of nothing is there a part."""
        latest: dict[str, int] = {}
        for transaction in self.history:
            if transaction.outcome == OK:
                for key in transaction.reads:
                    latest[key] = max(latest.get(key, 0), transaction.invoked_ns)
        present = {key: set(order) for key, order in self.orders.items()}
        readers = [transaction for transaction in self.history if transaction.outcome == OK]
        for index, transaction in enumerate(self.history):
            missing = {
                key: found
                for key, values in transaction.appends.items()
                if (found := sorted(set(values) - present.get(key, set())))
            }
            if transaction.outcome == OK and transaction.returned_ns is not None:
                for key, found in missing.items():
                    if latest.get(key, 0) > transaction.returned_ns:
                        text = f"{transaction.name} was acknowledged, {found} is not in {key}"
                        self.report("lost commit", text)
            elif self.committed[index] and missing:
                for reader in filter(transaction.is_half_in, readers):
                    text = f"{reader.name} saw a part of {transaction.name}, without {missing}"
                    self.report("half a commit", text)

    # What all together show

    def _dependencies(self) -> Graph:
        graph: Graph = {}
        for order in self.orders.values():
            writers = [self.writer[value] for value in order if value in self.writer]
            for one, other in pairwise(writers):
                _add_edge(graph, one, other, "ww")
        for index, transaction in enumerate(self.history):
            if not self.committed[index]:
                continue
            for key, values in transaction.reads.items():
                order = self.orders.get(key, [])
                if values and values[-1] in self.writer:
                    _add_edge(graph, self.writer[values[-1]], index, "wr")
                if order[: len(values)] == values and len(order) > len(values):
                    following = self.writer.get(order[len(values)])
                    if following is not None:
                        _add_edge(graph, index, following, "rw")
        return graph

    def _check_cycles(self, graph: Graph) -> bool:
        """Look for cycles without the clock, the worst kinds first; tell whether there are any."""
        before = len(self.anomalies)
        for kind, newest, others in (
            ("dirty write (G0)", "ww", {"ww"}),
            ("circular information flow (G1c)", "wr", {"ww", "wr"}),
            ("read skew (G-single)", "rw", {"ww", "wr"}),
        ):
            for cycle in islice(_gen_cycles(graph, newest, others), _REPORTS):
                self._report_cycle(kind, graph, cycle)
        if len(self.anomalies) > before:
            return True
        for cycle in islice(_gen_cycles(graph, "rw", {"ww", "wr", "rw"}), _REPORTS * 4):
            kinds = [_weakest(graph[a][b]) for a, b in _pairs(cycle)]
            is_skew = any(a == b == "rw" for a, b in _pairs(kinds))
            self._report_cycle("write skew (G2)" if is_skew else "long fork (G2)", graph, cycle)
        return len(self.anomalies) > before

    def _check_real_time(self, graph: Graph) -> None:
        """Look for those that did not see what was answered before they were begun."""
        timed: Graph = {node: dict(edges) for node, edges in graph.items()}
        returns = sorted(
            (transaction.returned_ns, index)
            for index, transaction in enumerate(self.history)
            if transaction.outcome == OK and transaction.returned_ns is not None
        )
        # A moment for each answer, -1, -2, ... in order, leads to the next: edges in proportion to
        # the transactions, not to their pairs.
        times = [time_ns for time_ns, _ in returns]
        for place, (_, index) in enumerate(returns):
            _add_edge(timed, index, -1 - place, "rt")
            if place:
                _add_edge(timed, -place, -1 - place, "rt")
        for index, transaction in enumerate(self.history):
            place = bisect_right(times, transaction.invoked_ns - 1)
            if place and self.committed[index]:
                _add_edge(timed, -place, index, "rt")
        for component in _components(timed, {"ww", "wr", "rw", "rt"}):
            for node in sorted(node for node in component if node >= 0)[:_REPORTS]:
                path = _path(timed, node, node, {"ww", "wr", "rw", "rt"}, component)
                if path is not None:
                    self._report_cycle("stale read (real time)", timed, path[:-1])

    def _report_cycle(self, kind: str, graph: Graph, cycle: list[Node]) -> None:
        involved = sorted({node for node in cycle if node >= 0})
        if involved in self.reported:
            return
        self.reported.append(involved)
        steps = [
            f"{self._name(a)} -{'/'.join(sorted(graph[a][b]))}-> {self._name(b)}"
            for a, b in _pairs(cycle)
            if a >= 0 or b >= 0
        ]
        details = [f"    {self._name(node)} = {self.history[node]}" for node in involved]
        self.report(kind, "\n".join(["; ".join(steps), *details]))

    def _name(self, node: Node) -> str:
        return self.history[node].name if node >= 0 else "(later)"


def _add_edge(graph: Graph, one: Node, other: Node, kind: str) -> None:
    if one != other:
        graph.setdefault(one, {}).setdefault(other, set()).add(kind)


def _pairs(cycle: list[T]) -> Iterator[tuple[T, T]]:
    yield from zip(cycle, [*cycle[1:], cycle[0]], strict=True)


def _weakest(kinds: set[str]) -> str:
    return next(kind for kind in ("ww", "wr", "rw", "rt") if kind in kinds)


def _gen_cycles(graph: Graph, first: str, others: set[str]) -> Iterator[list[Node]]:
    """Yield short cycles of one edge of the kind `first` and then edges of other kinds."""
    for component in _components(graph, {first, *others}):
        for one in sorted(component):
            for other, kinds in graph[one].items():
                if first in kinds and other in component:
                    path = _path(graph, other, one, others, component)
                    if path is not None:
                        yield [one, *path[:-1]]


def _path(
    graph: Graph, start: Node, end: Node, kinds: set[str], component: set[Node]
) -> list[Node] | None:
    """Give the shortest way of at least one edge."""
    came_from: dict[Node, Node] = {}
    waiting = deque([start])
    while waiting:
        node = waiting.popleft()
        for following, found in graph.get(node, {}).items():
            if following in came_from or following not in component or kinds.isdisjoint(found):
                continue
            came_from[following] = node
            if following == end:
                path = [end]
                while len(path) == 1 or path[-1] != start:
                    path.append(came_from[path[-1]])
                return path[::-1]
            waiting.append(following)
    return None


def _components(graph: Graph, kinds: set[str]) -> Iterator[set[Node]]:
    """Yield the strongly connected components of more than one node.

    Source: Tarjan, "Depth-first search and linear graph algorithms", 1972; without recursion.
    """
    numbers: dict[Node, int] = {}
    lowest: dict[Node, int] = {}
    stack: list[Node] = []
    on_stack: set[Node] = set()
    for root in graph:
        if root in numbers:
            continue
        work = [(root, iter(graph[root].items()))]
        numbers[root] = lowest[root] = len(numbers)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, edges = work[-1]
            for following, found in edges:
                if kinds.isdisjoint(found):
                    continue
                if following not in numbers:
                    numbers[following] = lowest[following] = len(numbers)
                    stack.append(following)
                    on_stack.add(following)
                    work.append((following, iter(graph.get(following, {}).items())))
                    break
                if following in on_stack:
                    lowest[node] = min(lowest[node], numbers[following])
            else:
                work.pop()
                if work:
                    above = work[-1][0]
                    lowest[above] = min(lowest[above], lowest[node])
                if lowest[node] == numbers[node]:
                    component: set[Node] = set()
                    while not component or node not in component:
                        component.add(stack.pop())
                    on_stack -= component
                    if len(component) > 1:
                        yield component
