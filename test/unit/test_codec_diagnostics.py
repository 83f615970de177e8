"""Statuses as serialized DiagnosticArray, read back by rosbags."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from perception_rt.codec.diagnostics import encode_diagnostics
from perception_rt.replay.message_types import typestore
from perception_rt.types.status import Level, Status

TEXTS = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=12)


def test_values_are_told_as_people_read_them():
    status = Status(
        "node: /topic", Level.WARN, "slow", "cpu", {"age": 1.2345, "none": None, "n": 3, "ok": True}
    )
    assert status.texts() == {"age": "1.23", "none": "", "n": "3", "ok": "True"}


@given(
    st.lists(
        st.builds(
            Status, TEXTS, st.sampled_from(Level), TEXTS, TEXTS, st.dictionaries(TEXTS, TEXTS, max_size=4)
        ),
        max_size=4,
    ),
    st.integers(0, 2**31 * 10**9 - 1),
)
def test_what_is_encoded_is_read_back(statuses, stamp_ns):
    data = encode_diagnostics(statuses, stamp_ns)
    read = typestore().deserialize_cdr(data, "diagnostic_msgs/msg/DiagnosticArray")
    assert read.header.stamp.sec * 10**9 + read.header.stamp.nanosec == stamp_ns
    assert [
        (one.level, one.name, one.message, one.hardware_id, {pair.key: pair.value for pair in one.values})
        for one in read.status
    ] == [
        (status.level, status.name, status.message, status.hardware_id, dict(status.values))
        for status in statuses
    ]
