"""The folder of all caches, and the home folder of libraries."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from twinseg.common.errors import UserError
from twinseg.common.files import folders

VARIABLES = ('TWINSEG_CACHE', 'XDG_CACHE_HOME', 'HOME')


@pytest.mark.parametrize(
    'environment, expected',
    [
        ({'TWINSEG_CACHE': '/a', 'XDG_CACHE_HOME': '/b', 'HOME': '/c'}, '/a'),
        ({'TWINSEG_CACHE': '~/a', 'HOME': '/c'}, '/c/a'),
        ({'XDG_CACHE_HOME': '/b', 'HOME': '/c'}, '/b/twinseg'),
        ({'XDG_CACHE_HOME': 'relative', 'HOME': '/c'}, '/c/.cache/twinseg'),
        ({'TWINSEG_CACHE': '', 'XDG_CACHE_HOME': '', 'HOME': '/c'}, '/c/.cache/twinseg'),
        ({'XDG_CACHE_HOME': '/b'}, '/b/twinseg'),
    ],
)
def test_the_cache_is_where_the_environment_says(monkeypatch, environment, expected):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert folders.cache_folder() == Path(expected)


@pytest.mark.parametrize(
    'environment, message',
    [
        ({'HOME': ''}, 'set the environment variable TWINSEG_CACHE to a folder'),
        ({}, 'set the environment variable TWINSEG_CACHE to a folder'),
        ({'TWINSEG_CACHE': '~nobody.at.all/x'}, 'TWINSEG_CACHE=~nobody.at.all/x: no such home folder'),
    ],
)
def test_without_a_home_folder_the_error_says_what_to_set(monkeypatch, environment, message):
    import pwd

    def nobody(_):
        raise KeyError

    monkeypatch.setattr(pwd, 'getpwuid', nobody)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        folders.cache_folder()


def test_libraries_get_a_home_folder_where_the_user_has_none():
    """OpenVINO asks for one when it is imported, also in a container whose user has neither HOME nor an entry in passwd."""
    pytest.importorskip('openvino')
    code = (
        'import os, pwd\n'
        'def missing(number): raise KeyError(number)\n'
        'pwd.getpwuid = missing\n'
        'from twinseg.common.deploy.sessions import openvino_core\n'
        'print(openvino_core().available_devices, "HOME" in os.environ)'
    )
    environment = {key: value for key, value in os.environ.items() if key != 'HOME'}
    ended = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=environment)
    assert ended.returncode == 0 and "'CPU'" in ended.stdout and ended.stdout.endswith('False\n'), ended.stderr
