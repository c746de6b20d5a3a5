"""What is hidden of addresses, and what is left alone."""

import pytest

from mambalab.utils.secrets import hide_password


@pytest.mark.parametrize(
    "secret",
    [
        "http://me:sEcReT@h:5000/x",
        "http://sEcReT@h:5000",
        "postgresql+psycopg2://u:pa/sEcReT@h/db",
        "mysql://u:p@sEcReT@h/db",
        "mysql://u:p%40sEcReT%2F@h/db",
        "postgresql://h/db?user=u&password=sEcReT",
        "postgresql://h/db?PASSWORD=sEcReT&sslmode=require",
        "postgresql://h/db?p%61ssword=sEcReT",
        "http://h/?token=sEcReT",
        "http://h/?token='sEcReT",
        "http://h/?token=x;sEcReT",
        "http://u:p sEcReT@h",
        "http://u:p'sEcReT@h",
        'http://u:"sEcReT"@h',
        "--uri=http://u:p'sEcReT@h other@words",
        "http://h/?access_token=sEcReT&x=1",
        "mssql://h/db?pwd=sEcReT;api_key=sEcReT",
        "tracking.uri='http://u:sEcReT@h'",
        "{tracking: {uri: 'http://u:sEcReT@h:1', kind: mlflow}}",
        "API request to http://u:sEcReT@h/a failed for http://v:sEcReT@h/b",
    ],
)
def test_no_spelling_of_a_password_is_left(secret):
    assert "sEcReT" not in (hidden := hide_password(secret))
    assert "h" in hidden
    assert hide_password(hidden) == hidden


@pytest.mark.parametrize(
    "text",
    [
        "http://host:5000/path?run=1&key_count=3",
        "sqlite:////home/a@b/mlflow.db",
        "file:///a@b/c",
        "me@example.com wrote a=b&password=c",
        "plain",
    ],
)
def test_what_is_no_secret_stays(text):
    assert hide_password(text) == text
