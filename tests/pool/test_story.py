from __future__ import annotations

from pool.story import Line, Story


def test_a_story_keeps_its_last_lines_in_order() -> None:
    story = Story(limit=3)
    for number in range(5):
        story.tell(float(number), f"thing {number}")
    assert story.lines() == (Line(2.0, "thing 2"), Line(3.0, "thing 3"), Line(4.0, "thing 4"))


def test_a_story_is_read_line_by_line() -> None:
    story = Story()
    story.tell(1.5, "boot")
    story.tell(2.25, "ready")
    assert str(story) == "1.500 boot\n2.250 ready"
