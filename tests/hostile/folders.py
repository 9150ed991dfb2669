"""Hostile folders: models of the Hub, language models and tokenizers of transformers, adapters, and runs.

Each function writes into a folder and may leave a mark where a program in it would. ``attack.py`` gives them to the
tools.
"""

import json
import os
import pickle
from functools import cache
from pathlib import Path

import torch
from hostile.checkpoints import CLASSES, DIMS, Program, compressed_zeros, enlarged_storage, not_finite_in
from safetensors.torch import load_file, save_file

SIZES = {"depths": [1, 1, 1, 1], "dims": list(DIMS), "num_classes": CLASSES, "in_chans": 1}
CODE = "import os\nos.makedirs({mark!r}, exist_ok=True)\n"


def _edit(path, **values):
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **values}))


@cache
def _language_files():
    """The files of a small language model and its tokenizer, by name."""
    import tempfile

    import small_language

    with tempfile.TemporaryDirectory() as folder:
        written = small_language.write_folder(Path(folder)) / "pretrained"
        return {path.name: path.read_bytes() for path in written.iterdir()}


@cache
def _hub_files():
    import tempfile

    from quadtree_ssm import QuadMamba

    with tempfile.TemporaryDirectory() as folder:
        QuadMamba(**SIZES).save_pretrained(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _copy(files, folder):
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _change_weights(folder, change):
    path = folder / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)


def config_sizes(folder, draw, mark):
    name, value = draw.choice([
        ("depths", [1, 1, 10**7, 1]), ("dims", [10**9] * 4), ("dims", [30_000] * 4), ("num_classes", 10**9),
        ("in_chans", 10**8), ("d_state", 10**7), ("ssm_ratio", 1e300), ("arch", "x" * 10**6), ("depths", "many"),
        ("hidden_size", 10**8), ("num_hidden_layers", 10**8), ("vocab_size", 10**10), ("state_size", 10**9),
        ("expand", 10**6), ("conv_kernel", 10**9), ("time_step_rank", 10**9), ("hidden_size", -1),
        ("hidden_size", "many"), ("num_hidden_layers", [1]), ("time_step_min", -1.0), ("hidden_act", "os.system"),
        ("chain_backend", "antigravity"), ("layer_norm_epsilon", float("nan")), ("tree_reach", 10**9),
        ("img_size", 10**12), ("img_size", [32] * 100), ("global_pool", "max" * 10**6),
    ])  # fmt: skip
    content = json.loads((folder / "config.json").read_text())
    if "model_args" in content and name != "num_classes":
        _edit(folder / "config.json", model_args={**content["model_args"], name: value})
    else:
        _edit(folder / "config.json", **{name: value})


def config_images(folder, draw, mark):
    """Nonsense about the images of a model."""
    content = json.loads((folder / "config.json").read_text())
    name, value = draw.choice([
        ("mean", [0.5] * 10**6), ("mean", [float("nan")]), ("mean", {}), ("mean", "0.5"), ("mean", [10**400]),
        ("std", [0.0]), ("std", []), ("std", [[1.0]]), ("input_size", [1, 10**12, 10**12]), ("input_size", 7),
        ("crop_pct", -1), ("crop_pct", "all"), ("crop_pct", 1e-300), ("interpolation", "evil.resize"),
        ("interpolation", ["bicubic"]),
    ])  # fmt: skip
    _edit(folder / "config.json", pretrained_cfg={**content["pretrained_cfg"], name: value})


def config_classes(folder, draw, mark):
    """Nonsense about the classes of a model, or the values in files."""
    name, value = draw.choice([
        ("label_names", [["a"]] * CLASSES), ("label_names", 7), ("value_range", [3, 1]), ("value_range", 9),
        ("value_range", [0, float("inf")]), ("model_args", [1]),
    ])  # fmt: skip
    _edit(folder / "config.json", **{name: value})


def config_code(folder, draw, mark):
    """Names of code to import, kernels to download and files to read, in all places that transformers knows."""
    (folder / "evil.py").write_text(CODE.format(mark=str(mark)))
    _edit(folder / "config.json", auto_map=dict.fromkeys(("AutoConfig", "AutoModelForCausalLM"), "evil.Evil"),
          attn_implementation="evil/kernel", fusion_config={"evil": True}, custom_pipelines={"x": {"impl": "evil.E"}},
          transformers_weights="../evil.safetensors", quantization_config={"quant_method": "evil", "module": "evil"},
          architectures=["evil.Evil"], _scope_="evil", custom_imports=["evil"])  # fmt: skip
    _edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]},
          tokenizer_class="evil.Evil", chat_template="{% for i in range(10**12) %}{{ i }}{% endfor %}")  # fmt: skip


def config_shape(folder, draw, mark):
    text = draw.choice(["[]", "null", "7", "{", "[" * 10**6, '{"a":' * 10**5, "\0", "NaN", '{"model_type": ["mamba"]}'])
    (folder / draw.choice(["config.json", "tokenizer.json", "tokenizer_config.json"])).write_text(text)


def special_files(folder, draw, mark):
    """Links to what never ends, under the names of files."""
    known = [path for path in sorted(folder.iterdir()) if path.suffix in (".json", ".safetensors")]
    path = draw.choice(known or [folder / "curves.json"])
    path.unlink(missing_ok=True)
    if draw.random() < 0.5:
        path.symlink_to(draw.choice(["/dev/zero", "/dev/random", "..", path.name]))
    else:
        os.mkfifo(path)


def pickled_weights(folder, draw, mark):
    (folder / "model.safetensors").unlink()
    torch.save({"w": Program(mark)}, folder / "pytorch_model.bin")


def bare_pickle_weights(folder, draw, mark):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Program(mark)))


def swollen_weights(folder, draw, mark):
    (folder / "model.safetensors").unlink()
    draw.choice([compressed_zeros, enlarged_storage])(folder / "pytorch_model.bin", draw, mark)


def shards_elsewhere(folder, draw, mark):
    (folder / "model.safetensors").rename(folder.with_suffix(".safetensors"))
    name = draw.choice([f"../{folder.with_suffix('.safetensors').name}", "/etc/hostname", "/dev/zero", "", 7])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}, "metadata": {}}))


def safetensors_header(folder, draw, mark):
    header = draw.choice([
        {"w": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4]}},
        {"w": {"dtype": "F32", "shape": [2**63, 2], "data_offsets": [0, 4]}},
        {"w": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}},
        {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "v": {"dtype": "F32", "shape": [1],
         "data_offsets": [0, 4]}},
    ])  # fmt: skip
    text = json.dumps(header).encode()
    size = draw.choice([len(text), 10**9, 2**63])
    (folder / "model.safetensors").write_bytes(size.to_bytes(8, "little") + text + bytes(4))


def other_numbers(folder, draw, mark):
    kind = draw.choice([torch.bool, torch.int64, torch.uint8])
    _change_weights(folder, lambda state: state.update({k: v.to(kind) for k, v in state.items()}))


def not_finite_weights(folder, draw, mark):
    _change_weights(folder, lambda state: not_finite_in(state, draw))


def missing_weights(folder, draw, mark):
    _change_weights(folder, lambda state: state.pop(draw.choice(sorted(state))))


def an_adapter(folder, draw, mark):
    """PEFT's adapter of a model at another place, with code for it."""
    (folder / "evil.py").write_text(CODE.format(mark=str(mark)))
    (folder / "config.json").unlink()
    (folder / "model.safetensors").unlink()
    torch.save({"w": Program(mark)}, folder / "adapter_model.bin")
    _edit(folder / "adapter_config.json", peft_type="LORA", base_model_name_or_path=str(folder / "evil"),
          auto_mapping={"base_model_class": "Evil", "parent_library": "evil"}, r=10**9, target_modules=["in_proj"],
          task_type="CAUSAL_LM")  # fmt: skip


def damaged_folder(folder, draw, mark):
    path = draw.choice([path for path in sorted(folder.iterdir()) if path.suffix in (".json", ".safetensors")])
    content = bytearray(path.read_bytes())
    for _ in range(draw.randint(1, 8)):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content[: draw.choice([len(content), draw.randrange(len(content))])])


def tokenizer_pattern(folder, draw, mark):
    """A pattern that needs exponential time for a text."""
    pattern = {"Regex": draw.choice([r"(\w+\s?)+$", r"(a|aa|\w)*\d", r"(.*)*x", r"(?:(?:\p{L}+)+)+!"])}
    part = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    if draw.random() < 0.5:
        _edit(folder / "tokenizer.json", pre_tokenizer=part)
    else:
        inner = {"type": "Replace", "pattern": pattern, "content": "x"}
        _edit(folder / "tokenizer.json", normalizer={"type": "Sequence", "normalizers": [inner]})


def tokenizer_growth(folder, draw, mark):
    """A short text that becomes a long one."""
    twice = {"type": "Replace", "pattern": {"String": "e"}, "content": "ee"}
    empty = {"type": "Replace", "pattern": {"String": ""}, "content": "e" * 1000}
    pieces = [{"Sequence": {"id": "A", "type_id": 0}}] * 10**4
    key, part = draw.choice([
        ("normalizer", {"type": "Sequence", "normalizers": [twice] * 40}),
        ("normalizer", {"type": "Sequence", "normalizers": [empty] * 20}),
        ("normalizer", {"type": "Prepend", "prepend": "e" * 10**6}),
        ("post_processor", {"type": "TemplateProcessing", "single": pieces, "pair": [], "special_tokens": {}}),
        ("padding", {"strategy": {"Fixed": 10**10}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                     "pad_type_id": 0, "pad_token": "<|padding|>"}),
    ])  # fmt: skip
    _edit(folder / "tokenizer.json", **{key: part})


def tokenizer_numbers(folder, draw, mark):
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    number = draw.choice([10**9, 2**32 - 1, -1, 2**70, 1.5, "one"])
    if draw.random() < 0.5:
        content["added_tokens"].append({**content["added_tokens"][0], "content": "<x>", "id": number})
    else:
        content["model"]["vocab"]["zz"] = number
    path.write_text(json.dumps(content))


def tokenizer_parts(folder, draw, mark):
    key, value = draw.choice([
        ("model", {"type": "Evil", "vocab": {}}), ("model", None), ("model", {"type": "BPE"}),
        ("decoder", {"type": "Evil"}), ("pre_tokenizer", [1]), ("pre_tokenizer", {"pattern": 1}),
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}), ("added_tokens", {"a": 1}),
        ("model", {"type": "WordPiece", "unk_token": "a", "continuing_subword_prefix": "##",
                   "max_input_chars_per_word": 10**9, "vocab": {"a": 0}}),
    ])  # fmt: skip
    _edit(folder / "tokenizer.json", **{key: value})


def curves_of_a_run(folder, draw, mark):
    """What a run wrote, read back by the next: curves, and the notes of a sweep."""
    text = draw.choice([
        "[]", "{", "[" * 10**6, '{"train": 7, "val": []}', '{"train": [], "val": [7]}', "null", "\0", '{"val": []}',
        '{"train": [], "val": [{"iter": 1, "epoch": 1, "top1": "<script>"}]}',
        '{"train": [], "val": [{"iter": 1, "epoch": 1, "top1": [1]}]}', '{"train": [{"iter": true}], "val": []}',
    ])  # fmt: skip
    (folder / "curves.json").write_text(text)


def notes_of_a_run(folder, draw, mark):
    """The notes of a sweep beside curves that are right."""
    (folder / "curves.json").write_text('{"train": [], "val": [{"iter": 1, "epoch": 1, "top1": 5}]}')
    text = draw.choice([
        "[]", "{", "7", "[" * 10**6, '{"given": 1}', '{"given": {}, "status": "done", "seconds": "x", "error": 7}',
        '{"given": 1, "status": "done", "seconds": 1, "error": ""}',
        '{"given": {}, "status": "done", "seconds": 1, "error": ""}',
    ])  # fmt: skip
    (folder / "ablation.json").write_text(text)


HUB = (
    config_sizes, config_code, config_shape, special_files, pickled_weights, bare_pickle_weights, swollen_weights,
    shards_elsewhere, safetensors_header, other_numbers, not_finite_weights, missing_weights, damaged_folder,
    config_images, config_classes,
)  # fmt: skip
LANGUAGE = (*(attack for attack in HUB if attack not in (config_images, config_classes)), an_adapter)
TOKENIZER = (
    config_code, config_shape, special_files, tokenizer_pattern, tokenizer_growth, tokenizer_numbers, tokenizer_parts,
    damaged_folder,
)  # fmt: skip
RUNS = (curves_of_a_run, notes_of_a_run)
CURVES = (curves_of_a_run, special_files)
# What its reader may take, since it ignores the hostile part.
MAY_BE_READ = {
    config_code, config_shape, config_sizes, special_files, damaged_folder, tokenizer_growth, tokenizer_parts,
}  # fmt: skip


def write(attack, kind, folder, draw, mark):
    """Write one hostile folder of a kind: ``"hub"``, ``"language"``, ``"tokenizer"`` or ``"run"``."""
    folder.mkdir()
    if kind != "run":
        _copy(_hub_files() if kind == "hub" else _language_files(), folder)
    attack(folder, draw, mark)
