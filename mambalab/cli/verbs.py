"""The words of the command line: its verbs, and what may follow them."""

VERBS = {
    "train": "train a model on a task",
    "runs": "list runs: status, task, model, best metric, path",
    "compare": "compare runs over seeds: tables, verdicts, pictures",
    "eval": "score a trained model on a split",
    "generate": "let a trained language model write",
    "inspect": "show what a trained model does with a text or an image",
    "export": "write a trained model for transformers or the original Mamba code",
    "data": "list, fetch or verify data sets",
    "bench": "measure scan, training, writing, data or recording",
    "sync": "send recorded runs to MLflow",
    "doctor": "check this machine: what works, what is missing",
    "ui": "look at runs in MLflow's pages",
    "completion": "print the completion script of a shell",
}
PATHS = ("sync", "compare")  # verbs after which paths of runs follow
SHELLS = ("bash", "zsh", "fish")
FLAGS = ("--help", "--cfg", "--multirun")
