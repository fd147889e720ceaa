"""`rayllama bench`: its arguments."""

from argparse import Namespace, _SubParsersAction
from typing import Any
def add_to(commands: Any) -> None: ...
