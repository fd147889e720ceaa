"""What the README promises and a test can see."""

import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()
TABLE = re.compile(r"<!-- settings: .*? -->\n\n(.*?)\n\n<!-- /settings -->", re.S)


def test_the_table_of_settings_is_the_settings() -> None:
    rayllama = str(Path(sys.executable).with_name("rayllama"))
    run = subprocess.run(
        [rayllama, "schema", "--markdown"], capture_output=True, text=True, check=True
    )
    table = TABLE.search(README)
    assert table is not None
    assert table[1] == run.stdout.strip(), "paste the output of `rayllama schema --markdown`"


def test_the_files_that_it_names_are_there() -> None:
    root = Path(__file__).parents[1]
    for name in re.findall(r"`((?:configs|tests|deployments|serve)/[\w./]+)`", README):
        assert (root / name).exists(), name
