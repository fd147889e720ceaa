"""What the README promises and a test can see."""

import re
import subprocess
import sys
from pathlib import Path

from serve.cli.fields import as_markdown

README = (Path(__file__).parents[1] / "README.md").read_text()
FIELDS = re.compile(r"<!-- fields: .*? -->\n\n(.*?)\n\n<!-- /fields -->", re.S)
TABLE = re.compile(r"<!-- settings: .*? -->\n\n(.*?)\n\n<!-- /settings -->", re.S)


def test_the_table_of_settings_is_the_settings() -> None:
    rayllama = str(Path(sys.executable).with_name("rayllama"))
    run = subprocess.run(
        [rayllama, "schema", "--markdown"], capture_output=True, text=True, check=True
    )
    table = TABLE.search(README)
    assert table is not None
    assert table[1] == run.stdout.strip(), "paste the output of `rayllama schema --markdown`"


def test_the_tables_of_fields_are_the_code() -> None:
    tables = FIELDS.search(README)
    assert tables is not None
    assert tables[1] == as_markdown().strip(), "run `rayllama fields --into README.md`"


def test_the_files_that_it_names_are_there() -> None:
    root = Path(__file__).parents[1]
    for name in re.findall(r"`((?:configs|tests|deployments|serve)/[\w./]+)`", README):
        assert (root / name).exists(), name


def test_the_sections_that_others_name_are_there() -> None:
    root = Path(__file__).parents[1]
    headings = set(re.findall(r"^#+ (.+)$", README, re.M))
    for folder in ("serve", "deployments", "tests", "configs"):
        for file in (f for f in (root / folder).rglob("*") if f.suffix in (".py", ".yaml")):
            for name in re.findall(r'README, "(\w[^"\n]+)"', file.read_text()):
                assert name in headings, (file, name)
