"""Makes a small language model, its tokenizer and texts for the tests of language models."""

import json

import torch

from tree_ssm.language import MambaTreeConfig, MambaTreeForCausalLM, save_network
from tree_ssm.language.tokenizer import train_tokenizer

SIZE = dict(vocab_size=61, hidden_size=16, state_size=4, num_hidden_layers=2, pad_token_id=0, eos_token_id=1)


def small_model(dtype=torch.float64, **values):
    """Return a model in evaluation mode. Its steps are long enough to make its outputs depend on the tree."""
    torch.manual_seed(0)
    model = MambaTreeForCausalLM(MambaTreeConfig(**{**SIZE, "time_step_min": 0.1, "time_step_max": 1.0, **values}))
    with torch.no_grad():
        for layer in model.backbone.layers:
            layer.mixer.D.normal_()
            layer.mixer.x_proj.weight.mul_(4)
            layer.mixer.in_proj.weight.mul_(4)
    return model.to(dtype).eval()


def rows(batch, length, seed=1):
    """Return random tokens [B, L]."""
    return torch.randint(2, SIZE["vocab_size"], (batch, length), generator=torch.Generator().manual_seed(seed))


def text_and_rows(count=40):
    """Return a text of a few words, and ``count`` rows of instruction, input and output about them."""
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    text = "".join(f"{a} and {b} are {c}.\n" for a in words for b in words for c in words[:3])
    rows = [
        {
            "instruction": f"Say {words[i % 10]} and {words[i // 10 % 10]}",
            "input": f"after {words[i % 7]}" if i % 3 == 0 else "",
            "output": f"{words[i % 10]} and {words[i // 10 % 10]}.",
        }
        for i in range(count)
    ]
    return text, rows


def write_folder(path):
    """Write ``pretrained/``, ``text.txt`` and ``rows.json`` into a folder, and return it."""
    text, examples = text_and_rows()
    (path / "text.txt").write_text(text)
    (path / "rows.json").write_text(json.dumps(examples))
    tokenizer = train_tokenizer(text.splitlines(keepends=True), vocab_size=300)
    torch.manual_seed(0)
    config = MambaTreeConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, state_size=4, initializer_range=0.02,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    save_network(MambaTreeForCausalLM(config), path / "pretrained", tokenizer)
    return path
