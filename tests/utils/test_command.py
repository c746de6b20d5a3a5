from mambalab.utils import command


def test_a_command_is_one_line_of_a_shell_without_passwords():
    words = ["train", "task.path=my text", "tracking.uri=http://me:pass@host:1/x"]
    assert (
        command.as_line(words) == "mambalab train 'task.path=my text' tracking.uri=http://host:1/x"
    )


def test_it_is_known_while_it_is_carried_out():
    assert command.current() is None
    with command.carried_out("mambalab train"):
        assert command.current() == "mambalab train"
    assert command.current() is None
