"""Write a tiny language model with random weights, for chats of random text with a real OpenAI-compatible server.

    python tiny_model.py tiny.gguf

Its vocabulary is the 256 bytes, so that it accepts any text. The weights are the same at every call.
"""

import sys

import numpy as np
from gguf import GGUFWriter, TokenType

WIDTH, HEADS, LAYERS, HIDDEN, CONTEXT = 32, 2, 1, 64, 512
PIECES = [b"<unk>", b"<s>", b"</s>", *(f"<0x{byte:02X}>".encode() for byte in range(256))]
TYPES = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256]


def write(path: str) -> None:
    """Write the model as a GGUF file of the llama architecture."""
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(PIECES)
    writer.add_token_scores([0.0] * len(PIECES))
    writer.add_token_types(TYPES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, array in tensors().items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensors() -> dict[str, np.ndarray]:
    """Return the weights by their names in llama.cpp."""
    random = np.random.default_rng(0)
    shapes = {"token_embd": (len(PIECES), WIDTH), "output": (len(PIECES), WIDTH)}
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        shapes |= {block + name: (WIDTH, WIDTH) for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
        shapes |= {block + name: (HIDDEN, WIDTH) for name in ("ffn_gate", "ffn_up")}
        shapes[block + "ffn_down"] = (WIDTH, HIDDEN)
    weights = {f"{name}.weight": random.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    norms = ["output_norm", *(f"blk.{i}.{name}" for i in range(LAYERS) for name in ("attn_norm", "ffn_norm"))]
    return weights | {f"{name}.weight": np.ones(WIDTH, np.float32) for name in norms}


if __name__ == "__main__":
    write(sys.argv[1])
