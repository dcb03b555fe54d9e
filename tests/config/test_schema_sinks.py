"""Options of sinks that the sink would refuse once the run has begun are found with the config."""

from __future__ import annotations

import re

import pytest
import yaml

from jaxtrain import Config, ConfigError
from jaxtrain.config.field import from_mapping
from jaxtrain.config.schema import LoggingConfig


def test_a_sinks_misspelt_option_is_found_with_the_config():
    with pytest.raises(ConfigError, match=r"^tensorboard = \{'sed': 'separate'\}: .*'sed'"):
        LoggingConfig(tensorboard={"sed": "separate"})


UNQUOTED = """
name: 2026-11-25
group: 001
project: on
notes: 12:30
entity: 1.5
tags: [2026, ppo, 2026-11-25, off]
"""
# Of each the field, and what works instead.
QUOTED = [
    ("project", 'project: "on"'),
    ("group", 'group: "1"'),
    ("name", 'name: "2026-11-25"'),
    ("entity", 'entity: "1.5"'),
    ("notes", 'notes: "750"'),
    ("tags.0", 'tags: ["2026"]'),
    ("tags.2", 'tags: ["2026-11-25"]'),
    ("tags.3", 'tags: ["off"]'),
]


def test_what_yaml_reads_as_no_text_is_found_with_the_config_and_the_quotes_that_it_names_work():
    with pytest.raises(ConfigError) as error:
        from_mapping(Config, {"logging": {"wandb": yaml.safe_load(UNQUOTED)}})
    rule = "needs a text: in YAML in quotes, as it was written, such as "
    assert [(p.path, p.rule) for p in error.value.problems] == [
        (f"logging.wandb.{path}", rule + quoted) for path, quoted in QUOTED
    ]
    for _, quoted in QUOTED:
        options = yaml.safe_load(quoted)
        made = LoggingConfig(wandb=options).wandb
        assert {name: list(v) if isinstance(v, tuple) else v for name, v in made.items()} == options
    number = yaml.safe_load('{group: "1e-3", tags: ["1.0", "2.0"]}')  # texts, though they read as floats
    assert dict(LoggingConfig(wandb=number).wandb) == {"group": "1e-3", "tags": ("1.0", "2.0")}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"project": "a/b"}, "project = 'a/b': needs a text without any of"),
        ({"project": " "}, "project = ' ': needs a text of 1 to 128 characters"),
        ({"tags": 3}, 'tags = 3: needs a list of texts, such as tags: ["3"]'),
        ({"tags": ["x" * 65]}, f"tags.0 = {'x' * 65!r}: needs a text of 1 to 64 characters"),
        ({"timeout_seconds": "soon"}, "timeout_seconds = 'soon': needs a number of seconds > 0"),
        ({"grup": "a"}, "grup: wandb.init has no such option; the nearest known is 'group'"),
        ({"settings": {}}, "settings: is what the sink itself gives"),
        ({"mode": False}, " = {'mode': False}: Wandb: mode = False: needs one of online, offline, disabled"),
    ],
)
def test_what_wandb_would_refuse_once_the_run_has_begun_is_found_with_the_config(options, line):
    with pytest.raises(ConfigError, match=rf"^wandb\.?{re.escape(line)}"):
        LoggingConfig(wandb=options)
    assert LoggingConfig(wandb={"timeout_seconds": "1e1", "resume": "never"}).wandb["resume"] == "never"
