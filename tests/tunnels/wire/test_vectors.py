"""The vectors of the wire are what their generator makes, and leave nothing out."""

from tests.vectors import make_wire
from tunnels.wire.cell import LAYERED, Command
from tunnels.wire.directory_messages import DirectoryType
from tunnels.wire.messages import MessageType

VECTORS = make_wire.load()


def test_the_file_is_what_the_generator_makes() -> None:
    assert make_wire.PATH.read_text() == make_wire.text()


def test_every_command_has_a_header_vector() -> None:
    assert {vector["command"] for vector in VECTORS["headers"]} == set(Command)


def test_every_sealed_command_has_a_vector_under_its_name() -> None:
    named = {(vector["name"], vector["number"]) for vector in VECTORS["link_messages"]}
    assert named == {(command.name, command.value) for command in Command if command not in LAYERED}


def test_every_message_type_has_a_vector_under_its_name() -> None:
    named = {(vector["name"], vector["number"]) for vector in VECTORS["messages"]}
    assert named == {(message_type.name, message_type.value) for message_type in MessageType}


def test_every_directory_message_type_has_a_vector_under_its_name() -> None:
    named = {(vector["name"], vector["number"]) for vector in VECTORS["directory_messages"]}
    assert named == {(message_type.name, message_type.value) for message_type in DirectoryType}
