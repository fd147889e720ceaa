"""What a runner is known by."""

from serve.ollama.runners import shown

FROM = "# Modelfile\nFROM /m/blobs/sha256-aa\nTEMPLATE x\n"


def test_weights_are_what_a_modelfile_is_made_from() -> None:
    first = shown({}, None, FROM)
    assert first.weights == shown({}, None, FROM + "SYSTEM other\n").weights
    assert first.weights != shown({}, None, FROM + "ADAPTER /m/blobs/sha256-bb\n").weights
    assert shown(None, None, None).weights == ""


def test_contexts_are_those_of_the_weights_and_of_the_model() -> None:
    info = {"general.architecture": "llama", "llama.context_length": 8192}
    told = shown(info, 'num_ctx                        4096\nstop "x"', FROM)
    assert (told.longest, told.own) == (8192, 4096)
    odd = shown({"general.architecture": "llama", "llama.context_length": "8"}, "num_ctx x", FROM)
    assert (odd.longest, odd.own) == (0, 0)
