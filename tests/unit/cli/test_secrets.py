"""What settings take from the environment is known by what was read, however it is written."""

from __future__ import annotations

import json

import pytest
from omegaconf import OmegaConf

from attrscore.cli.hydra_app import settings_of
from attrscore.core.secrets import Hidden

WRITTEN = {
    "plain": "${oc.env:LAB_TOKEN}",
    "quoted": "${oc.env:'LAB_TOKEN'}",
    "double": '${oc.env:"LAB_TOKEN"}',
    "spaced": "${oc.env: LAB_TOKEN }",
    "default": "${oc.env:LAB_TOKEN,fallback}",
    "nested": "${oc.env:${which}}",
    "within": "${oc.env:NOT_SET,${oc.env:LAB_TOKEN}}",
    "composed": "Bearer ${oc.env:LAB_TOKEN}!",
    "referred": "${elsewhere.token}",
    "decoded": "${oc.decode:${oc.env:LAB_LIST}}",
}
SECRETS = ["s3cr3t-t0ken", "8412097351", "12.34-56", 'it\'s "quoted"\\n', "gehe\u00efm-\u6f22"]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("kind", WRITTEN)
def test_what_the_environment_gave_is_hidden(kind, secret, monkeypatch):
    monkeypatch.setenv("LAB_TOKEN", secret)
    monkeypatch.setenv("LAB_LIST", json.dumps([secret, "an0ther-0ne"]))
    config = {
        "which": "LAB_TOKEN",
        "elsewhere": {"token": "${oc.env:LAB_TOKEN}"},
        "model": {"options": [{"token": WRITTEN[kind]}]},
    }
    settings = settings_of(OmegaConf.create(config))
    hidden = Hidden(settings["environment"])
    value = settings["model"]["options"][0]["token"]
    assert secret in str(value) or kind == "decoded"
    for shown in (
        hidden.text(f"cannot log in with {value}"),
        hidden.text(f"cannot log in with {value!r}: {secret}."),
        hidden.text(json.dumps({"token": value})),
        json.dumps(hidden.identity(settings["model"]), ensure_ascii=False),
        json.dumps(hidden.texts(settings["model"]), ensure_ascii=False),
    ):
        assert secret not in shown
        assert repr(secret)[1:-1] not in shown
        assert "an0ther-0ne" not in shown


def test_what_is_not_of_the_environment_is_shown(monkeypatch):
    monkeypatch.delenv("LAB_TOKEN", raising=False)
    config = {"a": "${oc.env:LAB_TOKEN,fallback}", "b": "${c}", "c": "plain text", "d": None}
    settings = settings_of(OmegaConf.create(config))
    assert settings["environment"] == {}
    assert settings["a"] == "fallback"


def test_digits_are_hidden_as_numbers_of_their_own():
    hidden = Hidden({"84120": "${oc.env:PIN}"})
    assert hidden.text("84120, 841207, 0.84120, x84120.") == (
        "${oc.env:PIN}, 841207, 0.84120, x${oc.env:PIN}."
    )
