"""ARCHITECTURE.md's picture and the rings."""

from tests.architecture import BEGIN, DOCUMENT, END, RINGS, ROOMS, edges, picture


def test_the_picture_is_what_the_imports_say() -> None:
    drawn = DOCUMENT.read_text().split(BEGIN)[1].split(END)[0].strip()
    assert drawn == picture(), "draw it again: make architecture"


def test_imports_point_inwards_and_never_in_a_circle() -> None:
    order = [set(rooms) for rooms in RINGS.values()]
    ring = {room: place for place, rooms in enumerate(order) for room in rooms}
    found = edges()
    assert [(room, other) for room, other in found if ring[room] > ring[other]] == []
    assert [(room, other) for room, other in found if (other, room) in found] == []


def test_every_room_is_in_the_picture() -> None:
    from tests.architecture import REPOSITORY

    inner = {p.parent.name for p in (REPOSITORY / "maitre").glob("*/__init__.py")}
    assert inner <= set(ROOMS)
