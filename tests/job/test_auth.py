"""The table [auth] of a job file: its types, its keys, its mistakes, and what a job sends."""

from __future__ import annotations

import pytest

from fanout import ApiKeyAuth, BasicAuth, BearerAuth, ConfigError
from fanout.job import load_job, run_job
from tests.jobs import JOB

KEY = {"KEY": "a-secret-key"}


def with_auth(table: str) -> str:
    return JOB.replace("[codec]", f"[auth]\n{table}\n\n[codec]")


@pytest.mark.parametrize(
    ("table", "auth"),
    [
        ('token = "${KEY}"', BearerAuth(token=KEY["KEY"])),
        ('type = "bearer"\ntoken = "${KEY}"', BearerAuth(token=KEY["KEY"])),
        ('type = "api-key"\ntoken = "${KEY}"', ApiKeyAuth(token=KEY["KEY"])),
        ('type = "api-key"\ntoken = "${KEY}"\nheader = "api-key"', ApiKeyAuth(token=KEY["KEY"], header="api-key")),
        ('type = "basic"\nusername = "me"\npassword = "${KEY}"', BasicAuth(username="me", password=KEY["KEY"])),
        ("", None),
    ],
)
def test_a_table_becomes_the_auth_of_its_type(write_job, table, auth):
    job = load_job(write_job(with_auth(table)), environment=KEY)
    assert job.auth == auth
    assert KEY["KEY"] not in repr(job) + repr(job.tables)


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ('tokn = "${KEY}"', r"auth.tokn: auth of type 'bearer' has no option 'tokn' \(did you mean 'token'\?\)"),
        ('type = "beerer"\ntoken = "${KEY}"', r"auth.type: there is no type of authentication 'beerer' \(did you mean"),
        ('type = "api-key"\nheader = "x"', r"auth.token: is missing"),
        ("token = 3", r"auth.token: must be a string, not a whole number"),
        ('token = ""', r"auth.token: must be a text that is not empty"),
        ('token = "${UNSET}"', r"auth.token: the environment variable UNSET is not set"),
        ('type = "basic"\nusername = "${KEY}:"', r"auth.username: must not hold a colon"),
        ('type = 3\ntoken = "x"', r"auth.type: must be a string"),
    ],
)
def test_a_mistake_is_an_error_that_names_the_key(write_job, table, problem):
    with pytest.raises(ConfigError, match=rf"job.toml: {problem}") as caught:
        load_job(write_job(with_auth(table)), environment=KEY)
    assert KEY["KEY"] not in str(caught.value)


def test_no_table_at_all_is_a_job_without_credentials(write_job):
    assert load_job(write_job(JOB)).auth is None


def test_a_table_that_is_none_is_an_error(write_job):
    with pytest.raises(ConfigError, match="auth: must be a table, not a string"):
        load_job(write_job('auth = "token"\n' + JOB))


async def test_a_job_sends_its_credentials_and_writes_them_nowhere(write_job, doubler, tmp_path):
    job = load_job(write_job(with_auth('token = "${KEY}"'), url=doubler.url), environment=KEY)
    assert (await run_job(job)).exit_code == 0
    assert doubler.headers["Authorization"] == "Bearer a-secret-key"
    written = [path for path in (tmp_path / "out").iterdir() if path.is_file()]
    assert len(written) >= 2
    assert not any(b"a-secret-key" in path.read_bytes() for path in written)


async def test_a_job_goes_on_with_other_credentials(write_job, doubler):
    doubler.status = 401
    file = write_job(with_auth('token = "${KEY}"'), url=doubler.url)
    stopped = await run_job(load_job(file, environment=KEY))
    assert stopped.stop is not None
    doubler.status = 200
    summary = await run_job(load_job(file, environment={"KEY": "another-key"}))
    assert summary.exit_code == 0


async def test_a_field_that_is_also_in_the_headers_names_the_table(write_job, doubler):
    text = with_auth('token = "${KEY}"').replace("[auth]", 'headers = { Authorization = "x" }\n\n[auth]')
    with pytest.raises(ConfigError, match=r"job.toml: auth: the field Authorization is set by auth and in headers"):
        await run_job(load_job(write_job(text, url=doubler.url), environment=KEY))
