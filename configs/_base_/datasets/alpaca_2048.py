# Alpaca's 52,002 rows (a JSON list of instruction, input, output) in Alpaca's own prompt. Every fiftieth is held out.
# Rows are not packed, because each row has its own tree. Rows without a response are skipped and counted.
tokenizer = dict(type="tree_ssm.language.load_tokenizer", path="state-spaces/mamba-130m-hf")
intro = "Below is an instruction that describes a task"
request = "Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n"
rows = dict(
    type="InstructionRows",
    path="data/alpaca/alpaca_data.json",
    tokenizer=tokenizer,
    template=dict(
        with_input=f"{intro}, paired with an input that provides further context. {request}"
        "### Input:\n{input}\n\n### Response:\n",
        without_input=f"{intro}. {request}### Response:\n",
    ),
    max_length=2048,
    held_out_every=50,
    faulty="skip",
)
# An iteration has 4 rows and an update has 4 iterations, which makes the paper's batch of 16 (schedules/lora_1e.py).
train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    collate_fn=dict(type="ssm_train.pad_rows"),
    dataset=dict(part="train", **rows),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=2,
    sampler=dict(type="DefaultSampler", shuffle=False),
    collate_fn=dict(type="ssm_train.pad_rows"),
    dataset=dict(part="held_out", **rows),
)
test_dataloader = val_dataloader
