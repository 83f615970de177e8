"""MOTChallenge's files: what is read and what is refused."""

from __future__ import annotations

import pytest

from perception_rt.replay.mot import read_mot
from perception_rt.types import BagError


@pytest.fixture
def write(tmp_path):
    def write(text: str):
        path = tmp_path / "gt.txt"
        path.write_text(text)
        return path

    return write


def test_boxes_by_frame_without_gaps_and_without_what_does_not_count(write):
    frames = read_mot(
        write("3,2,10,20,30,40,0.7,-1,-1,-1\n\n1,1,1.5,2,3,4,1\n3,1,0,0,5,5,1\n3,9,0,0,5,5,0\n")
    )
    assert list(frames) == [1, 2, 3]
    assert frames[1].xyxy.tolist() == [[1.5, 2, 4.5, 6]]
    assert frames[2].xyxy.shape == (0, 4)
    assert frames[3].ids.tolist() == [2, 1]
    assert frames[3].xyxy[0].tolist() == [10, 20, 40, 60]
    assert frames[3].scores.tolist() == pytest.approx([0.7, 1.0])


def test_a_byte_order_mark_is_no_part_of_the_first_number(write):
    assert list(read_mot(write("\ufeff1,1,2,3,4,5,1\n"))) == [1]


def test_an_empty_file_has_no_frames(write):
    assert read_mot(write("")) == {}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("1,1,x,2,3,4,1", "not numbers"),
        ("1,1,2,3,4,1", "7 finite columns"),
        ("1,1,2,3,4,nan,1", "7 finite columns"),
        ("0,1,2,3,4,5,1", "the frame from 1"),
    ],
)
def test_a_bad_line_is_named(write, line, complaint):
    with pytest.raises(BagError, match=rf"gt\.txt: line 2=.*{complaint}"):
        read_mot(write(f"1,1,2,3,4,5,1\n{line}\n"))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BagError, match="none"):
        read_mot(tmp_path / "none")
