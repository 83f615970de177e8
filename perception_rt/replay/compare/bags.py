"""Match the messages of two bags and compare them field by field; any message type works."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from perception_rt.replay.bag import Bag, BagMessage
from perception_rt.replay.compare.difference import Difference, Judge
from perception_rt.replay.compare.in_step import Item, Numbering, matched
from perception_rt.replay.message_types import has_header, header_stamp_ns
from perception_rt.types import BagError


class _Stamped(NamedTuple):
    """A message and its header stamp, ns; None if it has no header."""

    message: BagMessage
    stamp_ns: int | None


def compare_bags(new: Path, golden: Path, judge: Judge) -> Iterator[Difference]:
    """Yield every difference of two bags: in topics, types, messages, publish times and fields.

    Raises:
        BagError: a bag cannot be read completely.
    """
    stores = (definitions(new), definitions(golden))
    with Bag(new) as new_bag, Bag(golden) as golden_bag:
        bags, topics = (new_bag, golden_bag), []
        for topic in sorted({*new_bag.topics, *golden_bag.topics}):
            new_type, golden_type = (bag.topics.get(topic, (None,))[0] for bag in bags)
            if new_type is None or golden_type is None:
                yield Difference(
                    "extra_topic" if golden_type is None else "missing_topic",
                    topic,
                    "",
                    new_type,
                    golden_type,
                )
            elif new_type != golden_type:
                yield Difference("type", topic, "", new_type, golden_type)
            else:
                topics.append(topic)
        streams = (_items(new_bag, topics, stores[0]), _items(golden_bag, topics, stores[1]))
        for pair in matched(*streams):
            yield from _compare(*pair, stores, judge)


def definitions(bag: Path) -> Typestore:
    """Return the message types of a bag: its own definitions, or else those of ROS 2.

    Raises:
        BagError: the bag or one of its definitions cannot be read.
    """
    try:
        with AnyReader([bag], default_typestore=get_typestore(Stores.LATEST)) as reader:
            return reader.typestore
    except AnyReaderError as error:
        raise BagError(f"{bag}: message definitions: {error}") from error


def _items(bag: Bag, topics: list[str], store: Typestore) -> Iterator[Item]:
    stamped, unstamped = Numbering(), Counter[str]()
    headed = {topic: has_header(bag.topics[topic][0], store) for topic in topics}
    for message in bag.messages(topics) if topics else ():
        topic, stamp_ns = message.topic, None
        if headed[topic]:
            stamp_ns = header_stamp_ns(message.data)
        if stamp_ns is None:
            number = unstamped[topic]
            unstamped[topic] += 1
        else:
            number = stamped.number((topic, stamp_ns), message.log_ns)
        yield Item(message.log_ns, (topic, stamp_ns, number), _Stamped(message, stamp_ns))


def _compare(
    new: _Stamped | None, golden: _Stamped | None, stores: tuple[Typestore, Typestore], judge: Judge
) -> Iterator[Difference]:
    there = new or golden
    assert there is not None  # a pair is of one side at least
    topic = there.message.topic
    at: dict[str, Any] = {"log_ns": there.message.log_ns, "stamp_ns": there.stamp_ns}
    if new is None or golden is None:
        yield Difference("extra" if golden is None else "missing", topic, **at)
        return
    judge.compared[topic] += 1
    mine, other = new.message, golden.message
    if mine.log_ns != other.log_ns and not judge.ignores(topic, "log_ns"):
        yield Difference("value", topic, "log_ns", mine.log_ns, other.log_ns, **at)
    if mine.data == other.data:
        return
    try:
        values: list[Any] = [
            store.deserialize_cdr(side.data, side.message_type)
            for store, side in zip(stores, (mine, other), strict=True)
        ]
    except (SerdeError, KeyError) as error:  # KeyError: no definition of the type
        note = f"the bytes differ, and {mine.message_type} cannot be decoded: {error}"
        yield Difference("undecodable", topic, note=note, **at)
        return
    for leaf in judge.leaves(topic, values[0], values[1]):
        yield Difference("value", topic, leaf.path, leaf.new, leaf.golden, note=leaf.note, **at)
