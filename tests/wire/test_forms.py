import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.wire.forms import form_field

TYPE = b'multipart/form-data; boundary="edge of it"'


def form(*fields: tuple[str, bytes], edge: bytes = b"edge of it") -> bytes:
    parts = [
        b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
        % (edge, name.encode(), value)
        for name, value in fields
    ]
    return b"".join(parts) + b"--%b--\r\n" % edge


def test_the_first_field_of_the_name_is_told() -> None:
    body = form(("file", b"\0\r\nsound"), ("model", b"m:1"), ("model", b"other"))
    assert form_field(body, TYPE, b"model", max_bytes=9) == "m:1"
    assert form_field(body, TYPE, b"prompt", max_bytes=9) == ""
    plain = form(("model", b"m"), edge=b"x")
    assert form_field(plain, b"multipart/form-data; Boundary=x", b"model", max_bytes=9) == "m"


@pytest.mark.parametrize(
    ("body", "type"),
    [
        (form(("model", b"m" * 10)), TYPE),
        (form(("model", b"m")), b"application/json"),
        (form(("model", b"m")), b"multipart/form-data; boundary=other"),
        (b"--edge of it", TYPE),
        (b'--edge of it\r\nContent-Disposition: form-data; name="model"\r\n\r\nm', TYPE),
        (b"", TYPE),
    ],
)
def test_what_is_not_there_is_nothing(body: bytes, type: bytes) -> None:
    assert form_field(body, type, b"model", max_bytes=9) == ""


def test_a_form_of_very_many_fields_is_not_read_to_its_end() -> None:
    many = [("x", b"")] * 99
    assert form_field(form(*many, ("model", b"m")), TYPE, b"model", max_bytes=9) == "m"
    assert form_field(form(("x", b""), *many, ("model", b"m")), TYPE, b"model", max_bytes=9) == ""


@given(st.binary(max_size=200), st.binary(max_size=100))
def test_whatever_it_is_it_only_looks(body: bytes, type: bytes) -> None:
    form_field(body, type, b"model", max_bytes=9)
    form_field(body, TYPE, b"model", max_bytes=9)
