"""Which model a command is given: of a run, or a pretrained one."""

from mambalab.errors import UserError


def check_one_model(
    run: str, pretrained: str | None, checkpoint: str, tokenizer: str | None
) -> None:
    """Raise UserError for two models at once, or for options that go with the other kind.

    Args:
        run, pretrained: where each is; `run` is "latest" unless something else was typed.
        checkpoint: of a run; "best" unless something else was typed.
        tokenizer: of a pretrained model; None = its own.
    """
    if pretrained is not None and run != "latest":
        raise UserError(f"run={run} and pretrained={pretrained}: give one of them")
    if pretrained is not None and checkpoint != "best":
        raise UserError(
            f"checkpoint={checkpoint}: that is one of a run; pretrained={pretrained} "
            "has a single one"
        )
    if tokenizer is not None and pretrained is None:
        raise UserError(
            f"tokenizer={tokenizer}: a run has its own; this goes with pretrained=FOLDER"
        )
