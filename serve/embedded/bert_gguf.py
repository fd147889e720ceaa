"""A BERT sentence encoder from safetensors to GGUF, with the keys and tensors Ollama 0.33 gives it.

Matrices become float16 and everything else stays float32. Runs in a process of its own, so that
numpy and 90 MB of weights don't stay in the engine's memory.
"""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import safetensors.numpy

REVISION = 1
"""Part of the converted file's name: raise it when this module writes something else."""

_CONTROL, _NORMAL = 3, 1
_MODEL_TENSORS = {
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.LayerNorm.bias": "token_embd_norm.bias",
    "embeddings.LayerNorm.weight": "token_embd_norm.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
}
_BLOCK_TENSORS = {
    "attention.self.key": "attn_k",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "attention.self.query": "attn_q",
    "attention.self.value": "attn_v",
    "output.dense": "ffn_down",
    "intermediate.dense": "ffn_up",
    "output.LayerNorm": "layer_output_norm",
}
_SPECIAL = {
    "cls": "[CLS]",
    "mask": "[MASK]",
    "padding": "[PAD]",
    "seperator": "[SEP]",  # so spelled in GGUF
    "unknown": "[UNK]",
}
_POOLING = {"pooling_mode_mean_tokens": 1, "pooling_mode_cls_token": 2}


def convert(source: Path, target: Path) -> None:
    """Writes the model in the folder `source` as GGUF to `target`.

    `source` is a sentence-transformers folder. Raises `OSError`, `KeyError` or `ValueError` if it
    is incomplete.
    """
    writer = gguf.GGUFWriter(target, "bert")
    config = _json(source / "config.json")
    _write_keys(writer, source, config)
    _write_tokenizer(writer, source)
    writer.add_quantization_version(2)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    tensors = safetensors.numpy.load_file(source / "model.safetensors")
    for theirs, ours in _names(config["num_hidden_layers"]).items():
        writer.add_tensor(ours, _stored(ours, tensors[theirs]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_keys(writer: Any, source: Path, config: dict[str, Any]) -> None:
    writer.add_bool("bert.attention.causal", val=False)
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    modules = {
        module["type"].rpartition(".")[2]: module["path"]
        for module in _json(source / "modules.json")
    }
    writer.add_bool("bert.normalize_embeddings", "Normalize" in modules)
    pooling = _json(source / modules["Pooling"] / "config.json")
    kind = next((number for mode, number in _POOLING.items() if pooling.get(mode)), 0)
    writer.add_uint32("bert.pooling_type", kind)


def _write_tokenizer(writer: Any, source: Path) -> None:
    words = _json(source / "tokenizer.json")
    vocabulary = sorted(words["model"]["vocab"], key=words["model"]["vocab"].__getitem__)
    special = {token["id"] for token in words["added_tokens"] if token["special"]}
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([_spaced(word) for word in vocabulary])
    writer.add_array("tokenizer.ggml.scores", [float(number) for number in range(len(vocabulary))])
    kinds = [_CONTROL if number in special else _NORMAL for number in range(len(vocabulary))]
    writer.add_token_types(kinds)
    writer.add_token_type_count(2)
    for name, word in _SPECIAL.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", vocabulary.index(word))


def _spaced(word: str) -> str:
    """WordPiece marks the inside of words (`##ing`); GGUF marks their beginning (`▁ing`)."""
    if word.startswith("[") and word.endswith("]"):
        return word
    return word[2:] if word.startswith("##") else "\u2581" + word


def _names(blocks: int) -> dict[str, str]:
    """Their names → ours, in the order of Ollama's file."""
    names = dict(_MODEL_TENSORS)
    for block in range(blocks):
        for theirs, ours in _BLOCK_TENSORS.items():
            for part in ("bias", "weight"):
                names[f"encoder.layer.{block}.{theirs}.{part}"] = f"blk.{block}.{ours}.{part}"
    return names


def _stored(name: str, values: Any) -> Any:
    """Matrices as float16; vectors, and the two rows of token types, as float32."""
    is_matrix = values.ndim > 1 and not name.startswith("token_types")
    return values.astype(np.float16 if is_matrix else np.float32)


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
