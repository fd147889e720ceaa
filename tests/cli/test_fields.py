from pathlib import Path

import pytest

from serve.cli import REFUSED, main
from serve.wire.fields import FIELDS


def test_every_route_has_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fields"]) == 0
    out = capsys.readouterr().out
    for route, fields in FIELDS.items():
        table = out.partition(f"`{route}`\n")[2].partition("\n`/v1/")[0]
        assert all(f"`{path}`" in table for path in fields)


def test_the_tables_go_between_a_documents_marks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "README.md"
    document.write_text(
        "a\n<!-- fields: from `rayllama fields` -->\nwhat stood here\n<!-- /fields -->\nb\n"
    )
    assert main(["fields", "--into", str(document)]) == 0
    once = document.read_text()
    assert "what stood here" not in once
    assert once.startswith("a\n")
    assert once.endswith("<!-- /fields -->\nb\n")
    assert main(["fields", "--into", str(document)]) == 0
    assert document.read_text() == once
    document.write_text("no marks")
    assert main(["fields", "--into", str(document)]) == REFUSED
    assert "are missing" in capsys.readouterr().err
