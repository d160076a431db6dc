"""What deploy/README.md tells operators is so: its settings exist, and its keys are keys."""

import re
import shutil
import subprocess
from importlib import import_module
from pathlib import Path

import pytest
from pydantic import SecretStr

from shared.caller import TokenSigner, TokenVerifier
from shared.config import ServiceConfig, environment_names

GUIDE = Path(__file__).parents[2] / "deploy" / "README.md"
ROOMS = ("services.tenant_quota", "services.chat_store", "services.document_rag", "services.analytics", "gateway")
# Read before there are settings.
BEFORE_SETTINGS = {"PROSA_SECRETS_DIR"}


def configs() -> list[type[ServiceConfig]]:
    return [import_module(f"{room}.config").Config for room in ROOMS]


def test_every_setting_of_the_guide_exists_and_every_required_one_is_in_it() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    told = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", text)) - BEFORE_SETTINGS
    known = {name for config in configs() for names in environment_names(config).values() for name in names}
    endings = {name for name in told if f"<SERVICE>_{name}" in text}
    assert {name for name in told - endings if name not in known} == set()
    assert [name for name in endings if f"CHAT_STORE_{name}" not in known] == []
    required = [
        environment_names(config)[name]
        for config in configs()
        for name, field in config.model_fields.items()
        if field.is_required()
    ]
    assert [names for names in required if not told & set(names)] == []


def test_the_keys_that_the_guide_makes_are_keys(tmp_path: Path) -> None:
    made = re.findall(r"^openssl (?:genpkey|pkey) .*?(?=  +#)", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(made) == 2
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.fail("openssl is not installed: the guide cannot be followed here")
    for command in made:
        subprocess.run([openssl, *command.split()[1:]], cwd=tmp_path, check=True, capture_output=True)
    signer = TokenSigner(SecretStr((tmp_path / "signing.pem").read_text()))
    token, _ = signer.sign(key_id="k", tenant_id="t", user_id="", scopes=[])
    assert TokenVerifier((tmp_path / "public.pem").read_text()).verify(token).key_id == "k"
