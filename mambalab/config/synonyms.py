"""What people call settings elsewhere, and what the setting is called here."""

_NAMES = {
    "task": "dataset corpus benchmark",
    "task.batch_size": "bs batchsize batch minibatch train_batch_size per_device_train_batch_size",
    "task.eval_batch_size": "val_batch_size test_batch_size per_device_eval_batch_size",
    "task.seq_len": "block_size context_length context max_length sequence_length seqlen window",
    "task.path": "file data_path dataset_path input",
    "model": "arch architecture network net backbone",
    "model.d_model": "hidden_size hidden_dim hidden dim n_embd embed_dim d_hidden",
    "model.n_layer": "n_layers num_layers layers depth num_hidden_layers",
    "model.n_head": "n_heads num_heads heads num_attention_heads",
    "dropout.p": "dropout_rate dropout_p p_dropout drop",
    "optim": "optimizer optimiser opt",
    "optim.lr": "learning_rate learningrate max_lr base_lr step_size",
    "optim.weight_decay": "wd decay",
    "optim.warmup_steps": "warmup num_warmup_steps warmup_iters",
    "optim.schedule": "scheduler lr_scheduler lr_schedule",
    "optim.grad_clip": "clip max_grad_norm gradient_clip gradient_clip_val clip_grad_norm",
    "trainer.max_steps": "steps iterations iters max_iters num_steps train_steps n_steps",
    "trainer.max_epochs": "epoch epochs num_epochs n_epochs num_train_epochs",
    "trainer.max_minutes": "minutes time max_time time_limit",
    "trainer.eval_every": "eval_interval eval_steps val_every val_check_interval",
    "trainer.checkpoint_every": "save_every save_steps save_interval",
    "trainer.log_every": "log_interval logging_steps log_steps",
    "trainer.grad_accum": "accumulate_grad_batches gradient_accumulation_steps grad_accumulation",
    "trainer.patience": "early_stopping early_stop",
    "trainer.ema": "ema_decay swa polyak weight_averaging average_weights",
    "trainer.keep": "save_top_k save_total_limit keep_checkpoints",
    "trainer.profile": "profiler trace",
    "tracking": "logger log tracker wandb report_to",
    "tracking.experiment_name": "project project_name wandb_project",
    "name": "run_name run_id exp_name title",
    "note": "notes description comment remark",
    "tags": "tag labels",
    "device": "gpu gpus cuda accelerator use_cuda cpu",
    "precision": "amp dtype fp16 bf16 half mixed_precision torch_dtype",
    "seed": "random_seed random_state manual_seed",
    "experiment": "exp recipe preset example",
    "output_dir": "out output outdir save_dir log_dir logdir results_dir out_dir",
    "data_fraction": "fraction subset train_fraction",
    "resume": "resume_from_checkpoint ckpt checkpoint continue",
}
_MEANT = {word: key for key, words in _NAMES.items() for word in words.split()}
_FILES = {"config", "config_file", "config_name", "config_path", "conf", "cfg", "yaml"}


def meant(word: str, known: list[str]) -> str | None:
    """The key that somebody means who writes `word`, if the verb has it."""
    key = _MEANT.get(word.lower().replace("-", "_"))
    return key if key in known else None


def is_file_of_settings(key: str, value: str = "") -> bool:
    """Whether somebody hands over a YAML file: `config=my.yaml`, or `my.yaml` alone."""
    return key.lower() in _FILES or f"{key}{value}".lower().endswith((".yaml", ".yml"))


def own_file(value: str) -> str:
    """What to do with a YAML file of one's own."""
    name = value.strip("'\"").rpartition("/")[2].rpartition(".")[0] or "mine"
    return (
        f"settings of your own go into ./conf/experiment/{name}.yaml (first line "
        f"# @package _global_), then experiment={name}"
    )
