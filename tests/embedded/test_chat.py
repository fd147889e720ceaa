"""How a chat becomes a prompt; what is expected is what Ollama 0.33.0 rendered."""

import pytest

from tests.embedded.engines import EngineProcess

pytestmark = pytest.mark.engine

_END = "<|im_start|>assistant\n"


def _turn(role: str, content: str) -> str:
    return f"<|im_start|>{role}\n{content}<|im_end|>\n"


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        (
            [("user", "Hi"), ("assistant", "Hello")],
            _turn("user", "Hi") + _turn("assistant", "Hello"),
        ),
        ([("assistant", "Hello")], _turn("assistant", "Hello")),
        ([("user", "Hi"), ("assistant", "")], _turn("user", "Hi") + _turn("assistant", "")),
        (
            [("user", "Hi"), ("assistant", " Hello \n")],
            _turn("user", "Hi") + _turn("assistant", " Hello \n"),
        ),
        (
            [("user", "Hi"), ("assistant", "A"), ("assistant", "B")],
            _turn("user", "Hi") + _turn("assistant", "A\n\nB"),
        ),
        ([("user", ""), ("user", "B")], _turn("user", "\n\nB")),
        (
            [("system", "S1"), ("system", "S2"), ("user", "B")],
            _turn("system", "S1\n\nS2") + _turn("user", "B"),
        ),
        (
            [("system", "S1"), ("user", "A"), ("system", "S2"), ("user", "B")],
            _turn("system", "S1") + _turn("user", "A") + _turn("system", "S2") + _turn("user", "B"),
        ),
        (
            [("user", "A"), ("tool", "1"), ("tool", "2")],
            _turn("user", "A") + _turn("tool", "1") + _turn("tool", "2"),
        ),
    ],
)
def test_messages_are_rendered_as_by_ollama(
    engine: EngineProcess, messages: list[tuple[str, str]], prompt: str
) -> None:
    said = [{"role": role, "content": content} for role, content in messages]
    body = {"model": "smollm2:135m", "messages": said, "_debug_render_only": True}
    answer = engine.post("/api/chat", body).json()
    assert answer["_debug_info"]["rendered_template"] == prompt + _END
